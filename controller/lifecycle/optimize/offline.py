"""ONNX Runtime's own optimized graph, for one execution provider on one kind of machine.

Rules:
    * It is what a session of that provider makes of the graph (all optimizations), written down: it loads without
      optimizing again, and holds operators and memory layouts that another processor, another provider or another
      ONNX Runtime may not have. So its name and its metadata say what it is for, and it is never published.
    * Such a file is known by that metadata, and by operators in ONNX Runtime's blocked layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from controller.errors import ExportError
from controller.lifecycle.graph import load_graph
from controller.lifecycle.optimize.steps import foreign_operators
from runtime.custom_ops import register
from runtime.errors import ProviderError, UsageError
from runtime.files import replace_bytes
from runtime.hardware import Machine, this_machine
from runtime.manifest import CustomOps
from runtime.providers import explain, find, origin_of
from runtime.session_options import SessionOptions

__all__ = ["BuiltFor", "instruction_set", "offline_name", "refuse_offline", "write_offline"]

METADATA = "vedette.built_for."  # keys begin so
BLOCKED = "com.microsoft.nchwc"
ISA: Sequence[tuple[str, Callable[[frozenset[str]], bool]]] = (
    ("avx512-vnni", lambda flags: "avx512_vnni" in flags),
    ("avx512", lambda flags: "avx512f" in flags),
    ("avx2-vnni", lambda flags: "avx_vnni" in flags),
    ("avx2", lambda flags: "avx2" in flags),
    ("avx", lambda flags: "avx" in flags),
    ("sse", lambda flags: bool({"sse2", "sse4_1"} & flags)),
    ("i8mm", lambda flags: "i8mm" in flags),
    ("dotprod", lambda flags: "asimddp" in flags),
    ("neon", lambda flags: bool({"asimd", "neon"} & flags)),
)
"""The instructions that ONNX Runtime's kernels and layouts are chosen by, the best first (its MLAS, platform.cpp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltFor:
    """Where an optimized graph runs.

    Attributes:
        provider: Reference of the execution provider.
        isa: Architecture and instructions of the processor.
        ort: Version of ONNX Runtime.
    """

    provider: str
    isa: str
    ort: str

    def __str__(self) -> str:
        return f"{self.provider} on {self.isa}, ONNX Runtime {self.ort}"


def instruction_set(machine: Machine) -> str:
    """Return architecture and best instructions of *machine*: ``x86_64-avx512-vnni``."""
    best = next((name for name, has in ISA if has(machine.cpu_flags)), "base")
    return f"{machine.architecture}-{best}"


def offline_name(out: Path, built_for: BuiltFor) -> Path:
    """Return *out* with what it is built for in its name: ``model.CPU.x86_64-avx2.ort-1.32.0.onnx``."""
    provider = built_for.provider.replace("ExecutionProvider", "").replace(":", "-")
    said = f".{provider}.{built_for.isa}.ort-{built_for.ort}"
    return out if out.stem.endswith(said) else out.with_name(f"{out.name.removesuffix('.onnx')}{said}.onnx")


def write_offline(path: Path, provider: str, out: Path, custom_ops: Sequence[CustomOps] = ()) -> tuple[Path, BuiltFor]:
    """Write what ONNX Runtime makes of the graph in *path* for *provider* on this machine.

    Args:
        path: Of a portable graph.
        provider: Reference of the execution provider.
        out: Where to; what the graph is built for is added to the name.
        custom_ops: Libraries of operators that it needs.

    Returns:
        The file, and what it is built for.

    Raises:
        UsageError: *provider* means none.
        ProviderError: It cannot be had, or ONNX Runtime cannot write what it compiled.
        ExportError: *path* is built for some machine already.
    """
    import onnxruntime

    refuse_offline(load_graph(path), path.name)
    wanted = find(provider)
    built_for = BuiltFor(
        provider=wanted.reference, isa=instruction_set(this_machine()), ort=str(onnxruntime.__version__)
    )
    with TemporaryDirectory(prefix="vedette-offline-") as scratch:
        written = Path(scratch) / "optimized.onnx"
        options = SessionOptions().build()
        options.optimized_model_filepath = str(written)
        register(options, custom_ops)
        source = origin_of(wanted)
        try:
            source.open(path, options, None, {})
        except ProviderError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise ProviderError(
                f"ONNX Runtime writes no graph of {path.name} for {wanted}: {explain(str(error))}; providers that "
                "compile keep engines of their own"
            ) from error
        model = load_graph(written)
    for key, value in asdict(built_for).items():
        model.metadata_props.add(key=f"{METADATA}{key}", value=value)
    target = offline_name(out, built_for)
    if not target.parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {target.parent}")
    replace_bytes(target, model.SerializeToString())
    return target, built_for


def refuse_offline(model: onnx.ModelProto, name: str) -> None:
    """See that *model*, which came as *name*, is no graph that ONNX Runtime optimized for one machine.

    Raises:
        ExportError: It is.
    """
    said = {one.key.removeprefix(METADATA): one.value for one in model.metadata_props if one.key.startswith(METADATA)}
    mend = "import the graph that it was made from; every machine optimizes for itself when it loads a model"
    if said:
        facts = ", ".join(f"{key} {value}" for key, value in said.items())
        raise ExportError(f"{name} was optimized for one kind of machine ({facts}) and is not portable: {mend}")
    blocked = sorted({operator for domain, operator in foreign_operators(model) if domain == BLOCKED})
    if blocked:
        raise ExportError(
            f"{name} has operators in the memory layout of one kind of processor ({BLOCKED}: {', '.join(blocked)}): "
            f"ONNX Runtime wrote it with all optimizations, and it is not portable: {mend}"
        )
