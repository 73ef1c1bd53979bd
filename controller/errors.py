"""Every error that the controller raises on purpose.

VedetteError                     (`runtime.errors`)
├── TrainingError                a training run cannot start, go on, or be read
├── ExportError                  a model cannot be brought to ONNX, or fails the gate
│   └── ParityError              a graph does not give what its source gives
├── RegistryError                a model cannot be published
├── BrokerError                  the message broker cannot be started, reached, or told something
├── ServeError                   the controller cannot serve: an address in use, a database not usable
├── FleetError                   a device, a rollout or a job is not as the request needs it (HTTP 409)
│   ├── NotFoundError            no such device, rollout, job or token (HTTP 404)
│   └── LeaseLostError           a job is not held under the lease that was named (HTTP 409)
└── DemoError                    a step of the demo did not hold
"""

from __future__ import annotations

from runtime.errors import VedetteError

__all__ = [
    "BrokerError",
    "DemoError",
    "ExportError",
    "FleetError",
    "LeaseLostError",
    "NotFoundError",
    "ParityError",
    "RegistryError",
    "ServeError",
    "TrainingError",
]


class TrainingError(VedetteError):
    """A training run cannot start, go on, or be read."""


class ExportError(VedetteError):
    """A model cannot be brought to ONNX, or fails the gate."""


class ParityError(ExportError):
    """A graph does not give what its source gives.

    Attributes:
        output: That differs; empty where no single one does.
    """

    def __init__(self, text: str, output: str) -> None:
        super().__init__(text)
        self.output = output


class RegistryError(VedetteError):
    """A model cannot be published."""


class BrokerError(VedetteError):
    """The message broker cannot be started, reached, or told something."""


class ServeError(VedetteError):
    """The controller cannot serve: an address is in use, or its database is not usable."""


class FleetError(VedetteError):
    """A device, a rollout or a batch job is not as the request needs it to be."""


class NotFoundError(FleetError):
    """No such device, rollout, job or token."""


class LeaseLostError(FleetError):
    """A batch job is not held under the lease that was named: it is somebody else's, or ended."""


class DemoError(VedetteError):
    """A step of the demo did not hold."""
