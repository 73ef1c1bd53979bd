"""How a session uses the machine: one typed, documented object in place of strings of ONNX Runtime's.

Rules:
    * It crosses processes as JSON (`to_json`, `from_json`): a proof is made with the options that will serve.
    * Importing this module loads no ONNX Runtime; `build` does.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from runtime.errors import UsageError

__all__ = ["GraphOptimization", "SessionOptions"]


class GraphOptimization(StrEnum):
    """How much of the graph ONNX Runtime may rewrite before it runs."""

    DISABLED = "ORT_DISABLE_ALL"
    BASIC = "ORT_ENABLE_BASIC"  # what gives the same numbers on every EP: constant folding, dead nodes
    EXTENDED = "ORT_ENABLE_EXTENDED"  # fused operators besides
    ALL = "ORT_ENABLE_ALL"  # memory layouts of the CPU besides


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a session uses the machine.

    Raises:
        UsageError: A number is out of range, or two fields exclude each other.
    """

    intra_op_threads: int = 0  # threads within an operator; 0: one a core
    inter_op_threads: int = 1  # operators at a time; more than one only counts with `parallel`
    parallel: bool = False  # independent branches of the graph side by side, on `inter_op_threads`
    allow_spinning: bool = False  # idle threads spin: 28 % instead of 6 % of a CPU at 5 images/s
    enable_cpu_mem_arena: bool = True  # keep memory for the next run; off: less memory, slower
    enable_mem_pattern: bool = True  # plan the memory of a run by the first one of its shape
    graph_optimization: GraphOptimization = GraphOptimization.ALL
    profiling: Path | None = None  # prefix of the file that `Session.end_profiling` names; None: no profile
    disable_cpu_fallback: bool = False  # refuse a graph of which a node would run on the CPU EP; not for the CPU EP
    fixed_batch: int | None = None  # pin a dynamic batch to this size: what EPs that compile shapes want
    capture_graph: bool = False  # replay one captured launch (CUDA graphs); needs fixed shapes, see `fixed_batch`

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("intra_op_threads", "inter_op_threads"):
            if (found := getattr(self, name)) < 0:
                raise UsageError(f"session option {name} is {found}; expected 0 or more")
        if self.fixed_batch is not None and self.fixed_batch < 1:
            raise UsageError(f"session option fixed_batch is {self.fixed_batch}; expected 1 or more")

    def build(self) -> Any:
        """Return ONNX Runtime's own options; loads ONNX Runtime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.intra_op_threads
        options.inter_op_num_threads = self.inter_op_threads
        mode = onnxruntime.ExecutionMode
        options.execution_mode = mode.ORT_PARALLEL if self.parallel else mode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = self.enable_cpu_mem_arena
        options.enable_mem_pattern = self.enable_mem_pattern and not self.parallel  # ORT has no patterns in parallel
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, self.graph_optimization)
        options.log_severity_level = 3  # errors; they arrive as exceptions anyway
        if self.profiling is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(self.profiling)
        for name, value in self._entries().items():
            options.add_session_config_entry(name, str(int(value)))
        return options

    def _entries(self) -> dict[str, bool]:
        """Return the options that ONNX Runtime takes as text (onnxruntime_session_options_config_keys.h)."""
        spinning = {f"session.{kind}.allow_spinning": self.allow_spinning for kind in ("intra_op", "inter_op")}
        return spinning | {"session.disable_cpu_ep_fallback": self.disable_cpu_fallback}

    def unobserved(self) -> Self:
        """Return these options without what only watches a session: for a proof, and for its key."""
        return replace(self, profiling=None)

    def to_json(self) -> str:
        """Return the options as JSON, always the same for the same ones."""
        return json.dumps(asdict(self), sort_keys=True, default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the options that `to_json` made *text* of.

        Raises:
            UsageError: It is not of this version's options.
        """
        try:
            found = json.loads(text)
            known = {field.name for field in fields(cls)}
            if unknown := set(found) - known:
                raise UsageError(f"session options {', '.join(sorted(unknown))} are not known")
            found["graph_optimization"] = GraphOptimization(found["graph_optimization"])
            found["profiling"] = Path(found["profiling"]) if found["profiling"] else None
            return cls(**found)
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"session options {text[:100]!r} cannot be read: {error}") from None
