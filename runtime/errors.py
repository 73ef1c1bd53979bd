"""Every error that Vedette raises on purpose, as one tree.

    VedetteError                 a failure, exit code 1
    ├── UsageError               the call itself is wrong, exit code 2
    ├── ImageError               one image cannot be used; carries a reason code
    ├── DatasetError             a dataset cannot be read, or lacks what was asked of it
    ├── ManifestError            a manifest does not say what it must
    ├── ArtifactError            an artifact's files are absent or not the ones its manifest pins
    ├── StoreError               the artifact store cannot be reached, read or written
    ├── ModelNotFoundError       no such model, version or variant
    ├── ModelError               an ONNX file cannot be loaded, or does not fit its manifest
    ├── ProviderError            an execution provider cannot be had, or is not proven
    ├── ProtocolError            a topic or a message is not of the fleet protocol
    ├── HomeError                the state directory is not usable, or in use
    └── ApiError                 the controller refused a request
        └── UnreachableError     it does not answer

Rules: the text names the thing, what was found, what was expected, and what to do where that is
known; it is one line. The siblings' trees (`cluster.errors`, `controller.errors`,
`edge_agent.errors`) grow from `VedetteError`, so that one handler at the command line serves all.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

__all__ = [
    "IMAGE_REASONS",
    "ApiError",
    "ArtifactError",
    "DatasetError",
    "HomeError",
    "ImageError",
    "ImageReason",
    "ManifestError",
    "ModelError",
    "ModelNotFoundError",
    "ProtocolError",
    "ProviderError",
    "StoreError",
    "UnreachableError",
    "UsageError",
    "VedetteError",
]

ImageReason = Literal["empty", "not_an_image", "truncated", "too_large", "unsupported", "missing", "crashed_worker"]
IMAGE_REASONS: tuple[ImageReason, ...] = get_args(ImageReason)


class VedetteError(Exception):
    """Base of all errors that Vedette raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(VedetteError):
    """The call itself is wrong: an unknown option value, two options that exclude each other."""

    exit_code: ClassVar[int] = 2


class ImageError(VedetteError):
    """One image cannot be used.

    Attributes:
        reason: ``empty`` (no bytes), ``not_an_image`` (no known signature), ``truncated`` (it ends
            early or its data is corrupt), ``too_large`` (more pixels than the limit),
            ``unsupported`` (a known format in a form that no decoder reads), ``missing`` (null, or
            a path that is not there), ``crashed_worker`` (the process that decodes or infers it dies).
    """

    def __init__(self, reason: ImageReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: ImageReason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[ImageReason, str]]:
        """Pickle by constructor arguments: the error crosses process borders."""
        return type(self), (self.reason, self.detail)


class DatasetError(VedetteError):
    """A dataset cannot be read, or lacks what was asked of it."""


class ManifestError(VedetteError):
    """A manifest does not say what it must."""


class ArtifactError(VedetteError):
    """An artifact's files are absent or not the ones that its manifest pins."""


class StoreError(VedetteError):
    """The artifact store cannot be reached, read or written."""


class ModelNotFoundError(VedetteError):
    """No such model, version or variant."""


class ModelError(VedetteError):
    """An ONNX file cannot be loaded, or does not fit its manifest."""


class ProviderError(VedetteError):
    """An execution provider cannot be had, or is not proven."""


class ProtocolError(VedetteError):
    """A topic or a message is not of the fleet protocol."""


class HomeError(VedetteError):
    """The state directory is not usable, or another process holds it."""


class ApiError(VedetteError):
    """The controller refused a request.

    Attributes:
        status: HTTP status of its answer; 0 where it gave none.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class UnreachableError(ApiError):
    """The controller does not answer."""
