"""The manifest: what a published model is, in one immutable document (DESIGN.md §2).

Rules:
    * Everything is frozen; a changed model is a new version.
    * `Manifest.parse(m.to_bytes()) == m`, and equal manifests have equal bytes, so that their SHA-256
      is the identity of the artifact.
    * Unknown keys are ignored on read (an older device reads a newer manifest), refused on publish.
    * Files are named by bare file names: a manifest cannot point outside its artifact.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, ValidationError, model_validator

from runtime.errors import ArtifactError, ManifestError, ModelNotFoundError, UsageError
from runtime.recipe import Frozen, Hog, Preprocess, Resize

__all__ = [
    "CHUNK_SIZE",
    "MANIFEST_FILE",
    "MODEL_NAME",
    "CustomOps",
    "Golden",
    "Hog",
    "Manifest",
    "PinnedFile",
    "Postprocess",
    "Preprocess",
    "RejectedVariant",
    "Requires",
    "Resize",
    "Task",
    "Tensor",
    "Variant",
    "VariantRequires",
    "describe_validation",
]

MANIFEST_FILE = "manifest.json"
CHUNK_SIZE = 262_144  # bytes; one MQTT message, below every broker's default limit
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""Model names are topic levels, file names and URL segments alike, hence so narrow."""

Task = Literal["classification", "detection", "segmentation", "pose", "embedding"]


def _bare_name(value: str) -> str:
    if not FILE_NAME.fullmatch(value):
        raise ValueError(f"not a bare file name: {value!r}; expected letters, digits, '.', '-' and '_', at most 128")
    return value


def _model_name(value: str) -> str:
    if not MODEL_NAME.fullmatch(value):
        raise ValueError(f"not a model name: {value!r}; expected lowercase letters, digits, '-' and '_', at most 63")
    return value


def _sorted(metrics: dict[str, float]) -> dict[str, float]:
    return dict(sorted(metrics.items()))


def _in_utc(time: datetime) -> datetime:
    return time.astimezone(UTC)


FileName = Annotated[str, AfterValidator(_bare_name)]
ModelName = Annotated[str, AfterValidator(_model_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Metrics = Annotated[dict[str, float], AfterValidator(_sorted)]
UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Share = Annotated[float, Field(ge=0, le=1)]


class Postprocess(Frozen):
    """From the model's outputs to predictions.

    Every head (*kind*) reads the fields that it needs; `runtime.tasks` says which.
    """

    kind: str  # the head: a key of `runtime.tasks.HEADS`
    outputs: dict[str, str] = Field(default_factory=dict)  # by role: the graph's output; empty: found by its shape
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    top_k: Annotated[int, Field(ge=1)] = 5
    multi_label: bool = False  # every class at or above the threshold is an answer, not only the best ones
    score_threshold: Share = 0.25
    iou_threshold: Share = 0.45  # of the non-maximum suppression, within a class
    max_detections: Annotated[int, Field(ge=1)] = 300  # an image
    boxes: Literal["xyxy", "cxcywh", "xywh", "yxyx"] = "cxcywh"
    normalized: bool = False  # coordinates are shares of the input's size, not pixels of it
    strides: tuple[Annotated[int, Field(ge=1)], ...] = ()  # of the grids that boxes are relative to; (): they are not
    none_label: Annotated[int, Field(ge=0)] | None = None  # the class that means "nothing here"
    keypoints: tuple[str, ...] = ()  # names, in order

    def changed(self, **fields: Any) -> Self:
        """Return this with other values for *fields*.

        Raises:
            UsageError: A field is not there, or a value is out of range.
        """
        try:
            return self.model_validate(self.model_dump() | fields, extra="forbid")
        except ValidationError as error:
            raise UsageError(f"postprocessing cannot be changed so: {describe_validation(error)}") from None


class Tensor(Frozen):
    """One input or output of the graph; a string in *shape* is a dynamic dimension."""

    name: str
    dtype: str  # NumPy's name
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.shape)}"


class PinnedFile(Frozen):
    """A file of the artifact, pinned by size and SHA-256, as a whole and in chunks."""

    file: FileName
    size: Annotated[int, Field(ge=0)]  # bytes
    sha256: Sha256
    chunks: tuple[Sha256, ...] = ()
    chunk_size: Annotated[int, Field(ge=1)] = CHUNK_SIZE  # bytes; the last chunk may be shorter

    @model_validator(mode="after")
    def _chunks_cover_the_file(self) -> Self:
        expected = -(-self.size // self.chunk_size)
        if self.chunks and len(self.chunks) != expected:
            raise ValueError(
                f"{len(self.chunks)} chunks; expected {expected} of {self.chunk_size} for {self.size} bytes"
            )
        return self

    @classmethod
    def measure(cls, path: Path, chunk_size: int = CHUNK_SIZE) -> dict[str, Any]:
        """Return the fields that pin the file at *path*, as keyword arguments."""
        whole, chunks, size = hashlib.sha256(), [], 0
        with path.open("rb") as file:
            while chunk := file.read(chunk_size):
                whole.update(chunk)
                chunks.append(hashlib.sha256(chunk).hexdigest())
                size += len(chunk)
        return {
            "file": path.name,
            "size": size,
            "sha256": whole.hexdigest(),
            "chunks": tuple(chunks),
            "chunk_size": chunk_size,
        }

    def verify(self, root: Path) -> None:
        """Check that the file under *root* holds exactly the pinned bytes.

        Raises:
            ArtifactError: It is absent, or differs in size or SHA-256.
        """
        path = root / self.file
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise ArtifactError(f"{path} is absent; the manifest pins {self.size} bytes") from None
        if size != self.size:
            raise ArtifactError(f"{path} has {size} bytes; the manifest pins {self.size}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise ArtifactError(f"{path} has SHA-256 {found}; the manifest pins {self.sha256}")


class VariantRequires(Frozen):
    """What processor a variant is for; flags as /proc/cpuinfo names them, such as avx512_vnni or asimddp."""

    cpu_flags: tuple[str, ...] = ()  # all of these are needed
    any_cpu_flags: tuple[str, ...] = ()  # one of these is needed; (): none
    without_cpu_flags: tuple[str, ...] = ()  # a processor with one of these has a better variant


class CustomOps(Frozen):
    """A library of operators that the graphs use and ONNX Runtime does not have.

    Loading it runs its code: it is named by its path on the machine that runs the model, is no part
    of the artifact, and is loaded only if it holds exactly the pinned bytes.
    """

    path: str  # absolute
    sha256: Sha256

    @model_validator(mode="after")
    def _path_is_absolute(self) -> Self:
        if not Path(self.path).is_absolute():
            raise ValueError(f"custom operator library {self.path!r}: expected an absolute path")
        return self


class Variant(PinnedFile):
    """One ONNX file of the model: a precision, for some execution providers.

    An *unproven* one keeps the accuracy, but no device of its class was at hand to measure its speed: a device of the
    class measures it, and runs it only where it is faster than what was proven.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    precision: str  # fp32, fp16, int8, ...
    device_class: str = ""  # of the devices that it is for, in words; empty: any
    opset: int
    ir: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    providers: tuple[str, ...] = ("*",)  # execution providers it is meant for
    requires: VariantRequires = VariantRequires()
    tolerance: Annotated[float, Field(gt=0)] = 1e-3  # share of what an output ranges over: `runtime.comparison`
    unproven: bool = False
    metrics: Metrics = Field(default_factory=dict)


class Golden(PinnedFile):
    """Inputs and expected outputs, by which a device proves that it runs the model right (see `runtime.proving`)."""


class RejectedVariant(Frozen):
    """A variant that was built and did not earn its place, with the figures that say why."""

    id: str
    precision: str
    device_class: str = ""
    reason: str
    metrics: Metrics = Field(default_factory=dict)


class Requires(Frozen):
    """What a device must have; checked before anything is downloaded."""

    ort: str = ">=1.22"
    memory_mb: Annotated[int, Field(ge=0)] = 0
    disk_mb: Annotated[int, Field(ge=0)] = 0


class Provenance(Frozen):
    """Where the model came from."""

    framework: str
    created: UtcTime
    source_sha256: str | None = None
    dataset: str | None = None
    git: str | None = None
    route: str | None = None  # by which its framework brought it to ONNX; None: it came as ONNX


class Manifest(Frozen):
    """What a published model is."""

    manifest_schema: Literal[1] = Field(default=1, alias="schema")
    name: ModelName
    version: Annotated[int, Field(ge=1)]
    task: Task
    labels: tuple[str, ...] = ()
    preprocess: Preprocess
    postprocess: Postprocess
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    rejected: tuple[RejectedVariant, ...] = ()
    golden: Golden
    requires: Requires = Requires()
    custom_ops: tuple[CustomOps, ...] = ()
    provenance: Provenance

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, validate_by_name=True)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (
            ("variant id", [v.id for v in self.variants]),
            ("file", [f.file for f in self.files] + [MANIFEST_FILE]),
        ):
            if doubled := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{what} used twice: {', '.join(sorted(doubled))}")
        return self

    @property
    def files(self) -> tuple[PinnedFile, ...]:
        """Every file of the artifact besides the manifest itself."""
        return (*self.variants, self.golden)

    @property
    def reference(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"

    def variant(self, variant_id: str) -> Variant:
        """Return the variant *variant_id*.

        Raises:
            ModelNotFoundError: There is none of that id.
        """
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        raise ModelNotFoundError(
            f"{self.reference} has no variant {variant_id!r}; it has {', '.join(v.id for v in self.variants)}"
        )

    @classmethod
    def parse(cls, data: bytes, *, strict: bool = False) -> Self:
        """Return the manifest that the JSON *data* says.

        Args:
            data: UTF-8 JSON.
            strict: Refuse unknown keys too; for publishing.

        Raises:
            ManifestError: It is not JSON, or a key is missing, wrong or (strict) unknown.
        """
        try:
            return cls.model_validate_json(data, extra="forbid" if strict else None)
        except ValidationError as error:
            raise ManifestError(f"manifest is not valid: {describe_validation(error)}") from None

    def to_bytes(self) -> bytes:
        """Return the manifest as deterministic UTF-8 JSON."""
        return (json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of `to_bytes`, lowercase hex: the identity of the artifact."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def describe_validation(error: ValidationError, most: int = 3) -> str:
    """Return *error* on one line: ``path: message (found value)`` for at most *most* of its causes."""
    causes = [
        f"{'.'.join(map(str, cause['loc'])) or 'document'}: {cause['msg']} (found {str(cause['input'])[:60]!r})"
        for cause in error.errors(include_url=False, include_context=False)
    ]
    rest = len(causes) - most
    return " ".join("; ".join(causes[:most]).split()) + (f"; and {rest} more" if rest > 0 else "")
