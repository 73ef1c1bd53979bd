"""Calibration in a stream: which range of numbers every activation takes on real images, in bounded memory."""

from __future__ import annotations

from controller.lifecycle.calibration.ranges import Range, Ranges

__all__ = ["Range", "Ranges"]
