"""Let Arrow do without pandas, in processes that are ours.

To make an array of Python values, Arrow looks whether they are a Series, and loads pandas for that wherever it is
installed: half a second and 40 MB in every worker, for nothing.
"""

from __future__ import annotations

import pyarrow as pa

from runtime.absent import absent

__all__ = ["without_pandas"]


def without_pandas() -> None:
    """Let Arrow find out now that there is no pandas; its ``to_pandas`` looks again, and finds it."""
    with absent("pandas"):
        pa.array([None])
