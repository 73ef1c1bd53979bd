"""A graph as a picture: Netron, served on localhost, where somebody has installed it.

Rules:
    * Netron is started on request and never shipped: its page calls home.
    * Nothing but this machine reaches it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from controller.lifecycle.look.target import Target
from runtime.errors import UsageError

__all__ = ["Served", "serve"]

LOCALHOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Served:
    """A graph that is being served.

    Attributes:
        address: Of its page.
    """

    address: str
    _netron: ModuleType

    def wait(self) -> None:
        """Wait until somebody presses Ctrl-C."""
        self._netron.wait()


@contextmanager
def serve(target: Target, *, port: int = 0, browse: bool = True) -> Iterator[Served]:
    """Serve the graph of *target* for as long as the context lasts.

    Args:
        target: The graph.
        port: On localhost; 0: a free one.
        browse: Open a browser.

    Raises:
        UsageError: Netron is not installed, or the port is taken.
    """
    try:
        import netron
    except ImportError:
        raise UsageError("a graph is viewed with Netron, which is not installed: pip install 'vedette[view]'") from None
    try:
        host, port = netron.start(str(target.path), address=(LOCALHOST, port), browse=browse)
    except OSError as error:
        raise UsageError(f"Netron cannot listen on {LOCALHOST}:{port}: {error}") from None
    try:
        yield Served(f"http://{host}:{port}", netron)
    finally:
        netron.stop((host, port))
