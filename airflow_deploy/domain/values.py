"""Types that spec and request share, and the one sentence that says what is wrong with a value."""

import json
import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: Any) -> Any:
    """Turn ``"90s"``, ``"5m"``, ``"24h"`` or ``"7d"`` into seconds; leave everything else to the validator."""
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,7})([smhd])", value)
        if not match:
            raise ValueError("write a duration such as 90s, 5m, 24h or 7d")
        return int(match[1]) * UNITS[match[2]]
    return value


DURATION = BeforeValidator(parse_duration, json_schema_input_type=int | str)
"""Marks an integer of seconds that may be written ``90s``, ``5m``, ``24h`` or ``7d``; it stands behind the bounds."""

Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
"""One line of free text: it is shown and recorded, never interpreted."""


class Model(BaseModel):
    """Frozen, strict about types and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def dump(self) -> dict[str, Any]:
        """Return plain JSON, for XCom."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def load(cls, data: Any) -> Self:
        """Return what ``dump()`` wrote. Read as JSON, since strict Python would not take a list for a tuple."""
        return cls.model_validate_json(json.dumps(data))


REMEDIES = {
    "extra_forbidden": "is not a known key; remove it or correct its spelling",
    "missing": "is missing; add it",
}


def explain(what: str, error: ValidationError) -> str:
    """Return one sentence per mistake, each naming the field: ``conf: incident.id is missing; add it``."""
    sentences = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        field = ".".join(str(part) for part in item["loc"]) or "the whole"
        message = REMEDIES.get(item["type"]) or f"is not valid: {item['msg']}"
        sentences.append(f"{what}: {printable(field)} {message}")
    return "; ".join(sentences[:5])


def printable(text: str, limit: int = 80) -> str:
    """Return hostile text safe for one log line: escaped, and cut at ``limit`` characters."""
    escaped = text.encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= limit else escaped[:limit] + "…"
