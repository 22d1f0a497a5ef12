"""Which versions of a data set were read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from featurestore.errors import BadName


@dataclass(frozen=True)
class Snapshot:
    """What was read: versions of the items table and of the view's table."""

    items: int
    view: int

    def __str__(self) -> str:
        return f"{self.items}.{self.view}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` gives.

        >>> Snapshot.parse("12.3")
        Snapshot(items=12, view=3)
        """
        items, dot, view = text.partition(".")
        if not (dot and items.isdecimal() and view.isdecimal() and len(text) < 20):
            raise BadName(f"{text!r} is not a snapshot: expected two versions, such as 12.3")
        return cls(int(items), int(view))
