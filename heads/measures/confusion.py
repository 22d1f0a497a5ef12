"""What one head takes for what, class by class, and how far its confidence can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurestore.terms.intervals import wilson
from featurestore.terms.shown import Tabular
from heads.charts.charts import Grid, Line, Lines
from heads.charts.plotted import Plotted

N_BINS = 10  # of confidence
MOST_DRAWN = 25  # classes


@dataclass(frozen=True, eq=False, repr=False)
class Confusion(Tabular, Plotted):
    """Counts of true against predicted classes, over rows that were tested once."""

    classes: tuple[str, ...]
    counts: NDArray[np.intp]  # (n_classes, n_classes), true classes are rows

    @classmethod
    def of(cls, truth: Iterable[str], predicted: Iterable[str]) -> Confusion:
        """Count pairs of class names."""
        pairs = Counter(zip(truth, predicted, strict=True))
        known = sorted({name for pair in pairs for name in pair})
        place = {name: i for i, name in enumerate(known)}
        counts = np.zeros((len(known), len(known)), np.intp)
        for (true, said), n in pairs.items():
            counts[place[true], place[said]] = n
        return cls(tuple(known), counts)

    def rows(self) -> list[dict[str, Any]]:
        """Return recall, precision and F1 of each class as shares, the worst recall first.

        The interval is Wilson's of the recall, over the rows of one pass: it looks at single
        classes, so it is exploration.
        """
        rows = []
        for i, name in enumerate(self.classes):
            n, n_said = int(self.counts[i].sum()), int(self.counts[:, i].sum())
            n_right = int(self.counts[i, i])
            low, high = wilson(n_right / n, n) if n else (None, None)
            rows.append(
                {
                    "class": name,
                    "items": n,
                    "recall": n_right / n if n else None,
                    "low": low,
                    "high": high,
                    "precision": n_right / n_said if n_said else None,
                    "f1": 2 * n_right / (n + n_said) if n + n_said else None,
                }
            )
        return sorted(rows, key=lambda row: (row["recall"] is None, row["recall"], row["class"]))

    def most_confused(self, n: int) -> Confusion:
        """Return the n classes with the most confusions, in their order."""
        wrong = self.counts.sum(axis=0) + self.counts.sum(axis=1) - 2 * self.counts.diagonal()
        shown = np.sort(np.argsort(-wrong, kind="stable")[:n])
        return Confusion(tuple(self.classes[i] for i in shown), self.counts[np.ix_(shown, shown)])

    def chart(self) -> Grid:
        """Return what is drawn: of many classes those with the most confusions."""
        shown = self.most_confused(MOST_DRAWN)
        return Grid(shown.classes, shown.counts.tolist())

    def about(self) -> str:
        """Count classes and items."""
        n, n_right = self.counts.sum(), self.counts.trace()
        return f"of {len(self.classes)} classes: {n_right:,} of {n:,} right"


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Tabular, Plotted):
    """How often a head is right at each confidence."""

    bins: tuple[dict[str, Any], ...]  # confidence, right, low, high (shares), items

    @classmethod
    def of(cls, confidence: ArrayLike, is_right: ArrayLike) -> Calibration:
        """Count rows, shape (n,), in ten bins of confidence; empty bins are left out."""
        said, right = np.asarray(confidence, np.float64), np.asarray(is_right, np.bool_)
        number = np.clip((said * N_BINS).astype(int), 0, N_BINS - 1)
        bins = []
        for b in np.unique(number):
            here = number == b
            share, n = float(right[here].mean()), int(here.sum())
            low, high = wilson(share, n)
            mean = float(said[here].mean())
            bins.append({"confidence": mean, "right": share, "low": low, "high": high, "items": n})
        return cls(tuple(bins))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each bin of confidence that holds items."""
        return list(self.bins)

    def chart(self) -> Lines:
        """Return the share right over the confidence, with the diagonal."""
        x, y, low, high = (
            [100 * one[name] for one in self.bins]
            for name in ("confidence", "right", "low", "high")
        )
        line = Line("right", x, y, low, high)
        return Lines([line], "confidence (%)", "right (%)", is_square=True)

    def about(self) -> str:
        """Count items and bins."""
        n = sum(one["items"] for one in self.bins)
        return f"of {n:,} items in {len(self.bins)} bins of confidence"
