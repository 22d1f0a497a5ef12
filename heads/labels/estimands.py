"""What an evaluation speaks of: these fitted heads, or the procedure that fits them."""

from __future__ import annotations

ON_TEST = "these fitted heads, on the test split"


def over_folds(n_repeats: int, n_folds: int) -> str:
    """Name the estimand of repeated folds."""
    return f"the learning procedure, {n_repeats} × {n_folds} folds"
