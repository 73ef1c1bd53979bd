"""Marks tests that need INT8 arithmetic as it is written: sums of 8-bit products that do not saturate on the way."""

from __future__ import annotations

import pytest

from controller.lifecycle.variants.kinds import DOT_PRODUCTS
from runtime.hardware import this_machine

__all__ = ["exact_int8"]

exact_int8 = pytest.mark.skipif(
    not this_machine().cpu_flags.intersection(DOT_PRODUCTS),
    reason=f"this processor has none of {', '.join(DOT_PRODUCTS)}: ONNX Runtime's INT8 sums saturate on it",
)
