"""From a name or a machine to the execution providers it means; pure, and light enough for the daemon.

Rules:
    * A reference is ``NAME`` or ``NAME:DEVICE``; NAME is an alias (``openvino``) or ONNX Runtime's name.
    * What lacks its hardware is no candidate; asked for by name it is tried all the same, so that the
      driver's own words can be told.
"""

from __future__ import annotations

from runtime.errors import UsageError
from runtime.hardware import Machine, this_machine
from runtime.logs import get_logger
from runtime.providers.catalog import ALIASES, CPU, LEGACY, PREFERENCE, PROVIDERS, REPLACED, Provider

__all__ = ["canonical", "find", "preferences", "resolve"]

_SUFFIX = "executionprovider"


def canonical(name: str) -> str:
    """Return ONNX Runtime's name of the EP that *name* means: an alias, or the full name itself.

    An old name that has a successor means that, and a warning says so.

    Raises:
        UsageError: It means none, or one that is gone or legacy and has no successor.
    """
    plain = name.lower().removesuffix(_SUFFIX)
    if plain in REPLACED:
        successor, why = REPLACED[plain]
        _warn("execution provider replaced", asked=name, used=successor, reason=why)
        return successor
    if name.lower() in ALIASES:
        return ALIASES[name.lower()]
    if name in ALIASES.values():
        return name
    if name in LEGACY:
        raise UsageError(f"execution provider {name} is legacy and not run: {LEGACY[name]}")
    raise UsageError(
        f"execution provider {name!r} is not known; expected auto, {', '.join(ALIASES)} or a full name, "
        "and perhaps a device, as in openvino:gpu"
    )


def _warn(event: str, **facts: str) -> None:
    get_logger("vedette.runtime").warning(event, **facts)


def resolve(reference: str) -> tuple[Provider, ...]:
    """Return what *reference* means, best first.

    Without a device these are all the EP's devices whose hardware is here; if there is none, all.

    Raises:
        UsageError: The EP is not known, or has no such device.
    """
    text, _, device = reference.partition(":")
    name = canonical(text)
    every = tuple(provider for provider in PROVIDERS if provider.name == name)
    if not device:
        return tuple(provider for provider in every if provider.part in this_machine().parts) or every
    if named := tuple(provider for provider in every if provider.device == device.upper()):
        return named
    devices = ", ".join(provider.device for provider in every if provider.device) or "none to choose from"
    raise UsageError(f"{name} has no device {device!r}; it has {devices}")


def find(reference: str) -> Provider:
    """Return the one provider that *reference* means: the first of `resolve`.

    Raises:
        UsageError: As there.
    """
    return resolve(reference)[0]


def preferences(machine: Machine) -> tuple[Provider, ...]:
    """Return what *machine* prefers and has the hardware for, best first, the CPU EP last."""
    rows = (provider for device_class in machine.device_classes for provider in PREFERENCE[device_class])
    present = {provider.reference: provider for provider in rows if provider.part in machine.parts}
    present.pop(CPU.reference)
    return (*present.values(), CPU)
