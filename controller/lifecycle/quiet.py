"""Other people's tools, at work without their running commentary: a user reads what matters, in our words."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters, optimizers and quantizers log below an error, and warn of, to themselves.

    Some of them write to the root logger, so that all loggers are quiet meanwhile, as before afterwards.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
