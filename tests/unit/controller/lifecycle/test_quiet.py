"""What tools say at their work is kept; errors, and what is said before and after, are not."""

from __future__ import annotations

import logging
import warnings

import pytest

from controller.lifecycle.quiet import quiet


def test_only_errors_are_heard_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("some.tool")
    with quiet():
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)  # an error in these tests, elsewhere
        logger.warning("advice")
        logging.warning("advice to the root logger")  # noqa: LOG015 - as ONNX Runtime's quantizer does
        logger.error("broken")
    logger.warning("after")
    assert caplog.messages == ["broken", "after"]
    with pytest.warns(DeprecationWarning, match="again"):
        warnings.warn("again", DeprecationWarning, stacklevel=1)


def _broken_under(level: int) -> None:
    """Fail as a tool does, with what is silenced meanwhile, where all up to *level* was silenced already."""
    logging.disable(level)
    with quiet():
        raise RuntimeError(logging.root.manager.disable)


@pytest.mark.parametrize(("level", "meanwhile"), [(logging.ERROR, logging.ERROR), (logging.INFO, logging.WARNING)])
def test_a_stricter_silence_stays_and_a_failure_ends_ours(level: int, meanwhile: int) -> None:
    before = logging.root.manager.disable
    try:
        with pytest.raises(RuntimeError, match=str(meanwhile)):
            _broken_under(level)
        assert logging.root.manager.disable == level
    finally:
        logging.disable(before)
