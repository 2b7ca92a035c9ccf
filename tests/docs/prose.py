"""The documents as text: their links and anchors, their words, and their sentences without code and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.stack.layout import CHECKOUT

MAX_WORDS = 25
"""Words of a sentence."""

FORBIDDEN = (
    r"nobody",
    r"somebody",
    r"whoever",
    r"whatever",
    r"(take|takes|taken|taking|took)\b[^.;:|]{0,60}?\bback",
    r"stands? in the way",
    r"(is|are) to have",
    r"what is it",
    r"it is said",
)
"""Patterns of what plain English says otherwise: subject, cause, remedy."""

_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4,}[^\n]*\n)+", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"`[^`]+`")
_LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
_ITEM = re.compile(r"^ *(?:[-*]|\d+\.) +", re.MULTILINE)
_HEADING = re.compile(r"^(#+) +(.*)$", re.MULTILINE)


def pages() -> list[Path]:
    """Return all documents of the project."""
    return sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])


def without_code(text: str) -> str:
    """Return a page without its blocks of code and comments; code within a line becomes one word."""
    for block in (_FENCE, _COMMENT, _INDENTED):
        text = block.sub("", text)
    return _CODE.sub("code", text)


def links(text: str) -> list[str]:
    """Return where a page's links and pictures lead."""
    return [target for _, target in _LINK.findall(_FENCE.sub("", text))]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as the usual viewers of Markdown make them."""
    found: dict[str, int] = {}
    for _, title in _HEADING.findall(_FENCE.sub("", text)):
        slug = re.sub(r"[^\w\- ]", "", _LINK.sub(r"\1", title).lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug + (f"-{again}" if again else "") for slug, most in found.items() for again in range(most + 1)}


def forbidden_words(text: str) -> list[str]:
    """Return the forbidden words of a page, each with the text around it; tables count too."""
    plain = " ".join(without_code(text).split())
    pattern = re.compile(rf"\b(?:{'|'.join(FORBIDDEN)})\b", re.IGNORECASE)
    return [plain[max(0, hit.start() - 30) : hit.end() + 30] for hit in pattern.finditer(plain)]


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page's prose: paragraphs and the items of lists, without headings and tables."""
    plain = _LINK.sub(r"\1", without_code(text))
    plain = re.sub(r"^ *\|.*$", "", _HEADING.sub("", plain), flags=re.MULTILINE)
    plain = _ITEM.sub("\n\n", plain)
    for paragraph in re.split(r"\n\s*\n", plain):
        joined = " ".join(paragraph.split())
        yield from (part for part in re.split(r"(?<=[.!?:])[*)]*\s+(?=\S)", joined) if part)


def long_sentences(text: str) -> list[str]:
    """Return the sentences that have too many words."""
    return [part for part in sentences(text) if len(re.findall(r"\S*\w\S*", part)) > MAX_WORDS]


def main() -> None:
    """Print what is wrong, page by page."""
    for path in pages():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(CHECKOUT)
        for kind, found in (("forbidden", forbidden_words(text)), ("long", long_sentences(text))):
            for part in found:
                print(f"{name}: {kind}: {part}")


if __name__ == "__main__":
    main()
