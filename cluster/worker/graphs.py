"""Captured graphs (CUDA graphs) for a worker whose batch size is known: one launch in place of one an operator.

Rules:
    * Only where the EP can capture (`Provider.graph_options`); every batch then has the one size, and the last of a
      shard is filled up (`runtime.batching`).
    * A captured session is proven like any other, with the very options, before a row depends on it.
    * What cannot be captured (free sizes besides the batch, control flow, nodes on another EP, no memory for a second
      session) goes on as it was, and the worker says why.
    * Before the first row every variant may be chosen again: a proof with the batch pinned times whole batches, where
      fp16 gains more than on a single picture. Later the variant stays, since the output names it.
"""

from __future__ import annotations

from runtime.errors import VedetteError
from runtime.predictor import Predictor
from runtime.providers import find
from runtime.session import SessionOptions

__all__ = ["captured"]


def captured(predictor: Predictor, size: int, threads: int, *, any_variant: bool) -> tuple[Predictor, str | None]:
    """Return *predictor* with its graph captured for batches of *size*, or as it is; and what there is to say of that.

    Args:
        predictor: What runs now.
        size: Images a batch; the graph's own where that is fixed.
        threads: Of its session.
        any_variant: Whether another variant on the same EP may run instead.

    Returns:
        ``None`` in place of words for an EP that has no graphs to capture.
    """
    provider = find(predictor.proof.reference)
    if not provider.graph_options:
        return predictor, None
    options = SessionOptions(intra_op_threads=threads, fixed_batch=predictor.fixed_batch or size, capture_graph=True)
    try:
        made = Predictor(
            predictor.artifact,
            provider=provider.reference,
            variant=None if any_variant else predictor.variant.id,
            options=options,
        )
    except VedetteError as error:
        return predictor, f"graph not captured: {error}"
    return made, "graph captured"
