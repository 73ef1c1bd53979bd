"""The uneven network, prepared and calibrated once."""

from __future__ import annotations

import pytest
from quantizable import pictures, preprocessor, uneven_network

from controller.lifecycle.quantization.calibration.calibrate import Calibration
from controller.lifecycle.quantization.quantize import prepare


@pytest.fixture(scope="session")
def uneven() -> Calibration:
    """The calibration of a small network that is hard to quantize."""
    return Calibration(prepare(uneven_network()), pictures(), preprocessor())
