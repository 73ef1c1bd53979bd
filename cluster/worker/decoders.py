"""Which decoder a worker asks first: those of the CPU, or one that uses a GPU.

Rules:
    * ``cpu`` is the default: of what a GPU decodes it is not shown how well it agrees with Pillow.
    * One that is named is there, or the worker is refused and says why.
    * ``auto`` takes the first that can be used where the worker runs; if none can, the worker says why.
"""

from __future__ import annotations

from runtime.errors import ProviderError, UsageError
from runtime.images import ACCELERATED

__all__ = ["chosen_decoder"]

CPU = "cpu"
AUTO = "auto"


def chosen_decoder(wanted: str) -> tuple[str, str | None]:
    """Return the decoder to ask first, and what there is to say of that one that was wished for in vain.

    Raises:
        ProviderError: *wanted* cannot be used on this machine.
        UsageError: It is not known.
    """
    if wanted == CPU:
        return CPU, None
    if wanted != AUTO and wanted not in ACCELERATED:
        raise UsageError(f"decoder {wanted!r} is not known; expected {CPU}, {AUTO}, {', '.join(ACCELERATED)}")
    names = tuple(ACCELERATED) if wanted == AUTO else (wanted,)
    obstacles = {name: ACCELERATED[name].unavailable() for name in names}
    if usable := [name for name, why in obstacles.items() if not why]:
        return usable[0], None
    said = "; ".join(f"decoder {name} cannot be used: {why}" for name, why in obstacles.items())
    if wanted != AUTO:
        raise ProviderError(said)
    return CPU, said
