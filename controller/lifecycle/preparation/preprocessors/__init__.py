"""Readers of other projects' preprocessing: a table from what a document looks like to the module that reads it.

Rules:
    * The first row that recognizes the document decides; a JSON object that nobody claims is Vedette's own.
    * What cannot be expressed exactly is refused by the name of the key, never left out in silence.
    * Only Vedette's own object is written for one graph; everything else is a suggestion, whose sizes yield.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from controller.lifecycle.preparation.preprocessors import huggingface, timm, torchvision
from runtime.errors import UsageError
from runtime.manifest import Preprocess, describe_validation

__all__ = ["READERS", "Reader", "read_preprocess"]


@dataclass(frozen=True, slots=True)
class Reader:
    """One kind of document."""

    what: str
    recognizes: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], str], Preprocess]


READERS: Sequence[Reader] = (
    Reader("transformers' preprocessor_config.json", huggingface.recognizes, huggingface.read),
    Reader("timm's config.json", timm.recognizes, timm.read),
    Reader("torchvision's transforms", torchvision.recognizes, torchvision.read),
)


def read_preprocess(text: str, source: str) -> Preprocess:
    """Return what the document *text* says; *source* is how error texts call it.

    Raises:
        UsageError: It is no document that we know, or says what cannot be expressed exactly.
    """
    document = torchvision.parse(text, source) if torchvision.looks_like_calls(text) else _json(text)
    for reader in READERS:
        if document is not None and reader.recognizes(document):
            return reader.read(document, source)
    try:
        return Preprocess.model_validate_json(text, extra="forbid")
    except ValidationError as error:
        known = ", ".join(reader.what for reader in READERS)
        raise UsageError(
            f"{source} is not valid: {describe_validation(error)}; expected Vedette's own preprocess object as JSON, "
            f"{known}"
        ) from None


def _json(text: str) -> Mapping[str, Any] | None:
    """Return the JSON object in *text*; ``None`` if there is none."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
