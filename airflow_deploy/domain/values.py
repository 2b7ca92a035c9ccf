"""Types that spec and request share, and the error sentence for an invalid value."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: Any) -> Any:
    """Return ``"90s"``, ``"5m"``, ``"24h"`` or ``"7d"`` as seconds; return other types unchanged, for the validator.

    :raises ValueError: the text is not a duration.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,7})([smhd])", value)
        if not match:
            raise ValueError("write a duration such as 90s, 5m, 24h or 7d")
        return int(match[1]) * DURATION_UNITS[match[2]]
    return value


DURATION = BeforeValidator(
    parse_duration, json_schema_input_type=int | Annotated[str, StringConstraints(pattern=r"^[0-9]{1,7}[smhd]$")]
)
"""Marks an integer of seconds that may be written ``90s``, ``5m``, ``24h`` or ``7d``. Annotate the bounds before it."""

SIZE_PATTERN = r"^[1-9][0-9]{0,5}(Mi|Gi)$"
Size = Annotated[str, StringConstraints(pattern=SIZE_PATTERN)]
"""Text such as ``512Mi`` or ``2Gi``."""


def size_bytes(size: str) -> int:
    """Return a ``Size`` in bytes."""
    return int(size[:-2]) * {"Mi": 2**20, "Gi": 2**30}[size[-2:]]


LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""Marks a tuple that is written as a list. A YAML set is refused, since its order differs between processes."""

LINE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
"""Excludes control characters, line separators and characters that change the direction of text."""

Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=LINE_PATTERN)]
"""One line of free text, which is shown and recorded, never interpreted."""


class Model(BaseModel):
    """A frozen model with strict types that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def load(cls, data: Any) -> Self:
        """Return the model that ``dump()`` wrote.

        The data is validated as JSON, since strict validation of Python objects refuses a list for a tuple.
        """
        return cls.model_validate_json(json.dumps(data))


REMEDIES = {
    "extra_forbidden": "is not a known key; remove it or correct its spelling",
    "missing": "is missing; add it",
    "model_type": "is not valid: send an object with its fields",
    "tuple_type": "is not valid: write a list",
    "string_unicode": "is not valid Unicode; correct its text",
}


def explain_invalid(what: str, error: ValidationError, patterns: Mapping[str, str] | None = None) -> str:
    """Return one sentence for each mistake, at most five, such as ``conf: incident.id is missing; add it``.

    No value is repeated, since it may be a secret. For the same reason, raise the sentence ``from None``: the log shows
    an error's cause, and pydantic's own message holds the values.

    :param what: the input, such as ``conf`` or a file's name.
    :param patterns: the remedy in words, by the pattern that a text does not match.
    """
    sentences = []
    for item in error.errors(include_url=False, include_input=False):
        remedy = (patterns or {}).get(item.get("ctx", {}).get("pattern", ""))
        wrong = f"is not valid: {remedy or item['msg'].removeprefix('Value error, ')}"
        sentences.append(f"{what}: {_field(item['loc'])} {REMEDIES.get(item['type'], wrong)}")
    return "; ".join(sentences[:5])


def _field(location: Sequence[int | str]) -> str:
    """Return the field's dotted name. Unusual keys are quoted, so that they cannot pass for a part of the sentence."""
    parts = (part if re.fullmatch(r"[A-Za-z0-9_-]+", part := str(raw)) else ascii(part) for raw in location)
    return _cut(".".join(parts), 80) or "the whole"


def printable(text: str, limit: int = 80) -> str:
    """Return hostile text made safe for one log line: escaped, and cut to ``limit`` characters."""
    return _cut(text.encode("unicode_escape").decode("ascii"), limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
