"""What a page is made of: plain values, each drawn by `page.html` under its ``kind``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias


@dataclass(frozen=True)
class Text:
    """A paragraph; a quiet one is small and gray."""

    said: str
    is_quiet: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Bullets:
    """Sentences, one below the other."""

    said: Sequence[str]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Command:
    """Lines to type."""

    lines: Sequence[str]
    kind: ClassVar[str] = "command"


@dataclass(frozen=True)
class Table:
    """Cells as texts; ``first`` columns hold words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    first: int = 1
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Drawing:
    """An SVG of `heads.charts.svg`, the only text that is not escaped again."""

    svg: str
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True)
class Card:
    """An item: its picture as a data URI or its text, and what is said of it."""

    item_id: str
    said: Sequence[str]
    picture: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Cards:
    """Items side by side."""

    cards: Sequence[Card]
    kind: ClassVar[str] = "cards"


Block: TypeAlias = Text | Bullets | Command | Table | Drawing | Cards


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """What links within the page call it."""
        return re.sub(r"\W+", "-", self.title.lower())


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    about: str  # one line below the title
    sections: Sequence[Section]
    made: str  # by what and when
