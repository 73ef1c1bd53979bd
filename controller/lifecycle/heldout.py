"""Which rows a model is judged by: never those that it learned from.

Rules, in this order:
    * the data that the caller names;
    * the dataset's own ``test`` split: ``X#train`` is judged by ``X#test``, and so is a plain ``X`` that has both;
    * a stratified tenth of the rows, chosen by the seed.
"""

from __future__ import annotations

from runtime.datasets import Dataset, open_dataset, split, split_uri
from runtime.errors import DatasetError

__all__ = ["HELD_OUT_SHARE", "open_with_held_out"]

HELD_OUT_SHARE = 0.1


def open_with_held_out(
    uri: str,
    validation: str | None = None,
    *,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
) -> tuple[Dataset, Dataset]:
    """Return (what to learn from, what to judge by) of the dataset at *uri*.

    Args:
        uri: Of the dataset.
        validation: URI of the data to judge by; ``None``: the rules above.
        seed: Which rows are held out, where there is no split.
        image_column: Of Parquet; found out if ``None``.
        label_column: Of Parquet; found out if ``None``.

    Raises:
        DatasetError: One of them cannot be read.
    """

    def opened(one: str) -> Dataset:
        return open_dataset(one, image_column=image_column, label_column=label_column)

    if validation is not None:
        return opened(uri), opened(validation)
    whole = opened(uri)
    location, wanted = split_uri(uri)
    if wanted not in {None, "train"}:
        return split(whole, HELD_OUT_SHARE, seed)
    try:
        return opened(f"{location}#train"), opened(f"{location}#test")
    except DatasetError:  # it has no such splits
        return split(whole, HELD_OUT_SHARE, seed)
