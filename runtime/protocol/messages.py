"""The messages of the fleet protocol: JSON, UTF-8, parsed once at the edge.

Rules:
    * Unknown keys are ignored, so that either side may be newer; a missing or wrong key is an error.
    * A message larger than `MAX_MESSAGE` is refused unread.
    * Times are timezone-aware, UTC on the wire.
    * A device applies an assignment only if its sequence is above the last it has seen.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.errors import ProtocolError
from runtime.manifest import ModelName, Sha256, UtcTime, describe_validation

__all__ = [
    "BLOB_WINDOW",
    "MAX_MESSAGE",
    "Assignment",
    "BlobRequest",
    "Command",
    "Event",
    "Failure",
    "Hardware",
    "Message",
    "ModelState",
    "Phase",
    "Reported",
    "Sample",
    "Status",
    "Telemetry",
    "VariantProof",
]

MAX_MESSAGE = 262_144  # bytes of JSON
BLOB_WINDOW = 8  # chunks in flight for one device


class Status(StrEnum):
    """The payload of the ``status`` topic, as it stands."""

    ONLINE = "online"
    OFFLINE = "offline"


class Phase(StrEnum):
    """Where a device is on its way from desired to committed (DESIGN.md §6)."""

    IDLE = "idle"  # nothing under way: the active model is the desired one, or there is none
    WAITING = "waiting"  # outside its window
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    PROVING = "proving"
    SWITCHING = "switching"
    PROBATION = "probation"
    COMMITTED = "committed"
    FAILED = "failed"  # the old model serves on; `Reported.failure` says why


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Return the message in *payload*.

        Raises:
            ProtocolError: It is too large, not JSON, or lacks what it must have.
        """
        if len(payload) > MAX_MESSAGE:
            raise ProtocolError(f"{cls.__name__} message has {len(payload)} bytes; at most {MAX_MESSAGE} are read")
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            raise ProtocolError(f"{cls.__name__} message is not valid: {describe_validation(error)}") from None

    def to_bytes(self) -> bytes:
        """Return the message as UTF-8 JSON."""
        return self.model_dump_json().encode()


class Assignment(Message):
    """``desired``: which model the device shall run; the controller signs it once fleets have keys."""

    device: str
    sequence: Annotated[int, Field(ge=1)]  # rises by one with every assignment to this device
    model: ModelName
    version: Annotated[int, Field(ge=1)]
    manifest_sha256: Sha256
    manifest_size: Annotated[int, Field(ge=1)]  # bytes; the manifest is pulled like any chunk
    rollout: str | None = None
    config: dict[str, str] = {}
    not_before: UtcTime | None = None
    deadline: UtcTime | None = None

    @property
    def reference(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.model}@{self.version}"


class VariantProof(Message):
    """What came of a variant, unproven when it was published, on a device of its class."""

    variant: str
    provider: str  # NAME, or NAME:DEVICE
    device_class: str  # a `runtime.hardware.DeviceClass`
    passed: bool
    reason: str  # why it passed or did not
    latency_ms: float | None = None  # median, batch of one
    fp32_latency_ms: float | None = None  # the same of fp32 on the same provider of the same device

    @property
    def speedup(self) -> float | None:
        """How many times as fast as fp32 it is there; ``None``: one of both was not measured."""
        if not self.latency_ms or self.fp32_latency_ms is None:
            return None
        return self.fp32_latency_ms / self.latency_ms


class ModelState(Message):
    """A model that a device has in a slot."""

    model: ModelName
    version: int
    manifest_sha256: Sha256
    variant: str
    provider: str  # execution provider that was proven for it: NAME, or NAME:DEVICE
    fallback: str = ""  # why it is not the provider that the device prefers; empty if it is
    proofs: tuple[VariantProof, ...] = ()  # of its unproven variants, those that are for this device


class Failure(Message):
    """Why an update ended in `Phase.FAILED`."""

    code: str  # download | integrity | proof | requirements | runner | probation | superseded
    message: str
    sequence: int  # of the assignment that failed
    manifest_sha256: Sha256


class Hardware(Message):
    """What the device is."""

    machine: str  # as `uname -m` says
    cpu_count: int
    memory_mb: int
    model: str = ""  # of the board or CPU


class Reported(Message):
    """``reported``, retained: what the device is and what really serves on it."""

    device: str
    boot_id: str  # new at every start of the agent
    agent_version: str
    time: UtcTime
    hardware: Hardware
    providers: tuple[str, ...] = ()  # execution providers proven on this device
    phase: Phase
    sequence: int = 0  # of the last assignment seen; 0: none yet
    active: ModelState | None = None  # the model that serves now
    standby: ModelState | None = None  # the model to return to
    failure: Failure | None = None


class Event(Message):
    """``events``: something happened on the device."""

    boot_id: str
    number: int  # rises by one within a boot
    time: UtcTime
    kind: str  # phase | error | provider_fallback | command
    phase: Phase | None = None
    sequence: int = 0  # of the assignment it is about
    code: str = ""
    message: str = ""


class Sample(Message):
    """One measurement; names as OpenTelemetry has them (``system.cpu.utilization``)."""

    name: str
    value: float
    time: UtcTime


class Telemetry(Message):
    """``telemetry``: a batch of samples; (boot_id, number) removes doubles."""

    boot_id: str
    number: int
    samples: tuple[Sample, ...]


class BlobRequest(Message):
    """``blobs/get``: the chunks that a device wants next."""

    device: str
    digests: Annotated[tuple[Sha256, ...], Field(min_length=1, max_length=BLOB_WINDOW)]


class Command(Message):
    """``command``: a request to one device; it answers with an event of kind ``command``."""

    id: str
    command: Literal["ping"]
    time: UtcTime
