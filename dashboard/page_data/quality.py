"""What the Quality page shows: reports and decisions in, queues and tables out, no Streamlit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from dashboard.page_data.wording import Row, when
from featurestore.curation.reviews import Action, Review, standing
from featurestore.terms.specs import encoder_label
from heads import Issue, Issues
from heads.quality.issues import Kind


def report_title(found: Issues) -> str:
    """Name a stored report in a list."""
    part = f" · slice {found.card['slice']}" if found.card.get("slice") else ""
    return (
        f"{when(found.card)} · {encoder_label(found.encoder)}{part} · {len(found.issues):,} issues"
    )


def queue(
    issues: Sequence[Issue],
    decided: Mapping[str, Review],
    skipped: Sequence[str],
    known: Collection[str],
) -> list[Issue]:
    """Return issues to decide: worst first, skipped last; deleted items are left out."""
    originals = {one.value for one in decided.values() if one.action is Action.DUPLICATE}
    open_ = [
        one
        for one in issues
        if one.item_id not in decided
        and one.item_id in known
        # Of twins the one that others are duplicates of is decided with them.
        and not (one.kind in (Kind.DUPLICATE, Kind.LEAK) and one.item_id in originals)
    ]
    turn = {item: i for i, item in enumerate(skipped)}
    return sorted(open_, key=lambda one: turn.get(one.item_id, -1))  # stable: the worst first


def issue_table(issues: Sequence[Issue]) -> pa.Table:
    """Return issues as a table: item_id, score, reason, suggested."""
    return pa.table(
        {
            "item_id": [one.item_id for one in issues],
            "score": [one.score for one in issues],
            "reason": [one.reason for one in issues],
            "suggested": pa.array([one.suggested for one in issues], pa.string()),
        }
    )


def decision_words(one: Review | None) -> str | None:
    """Say a decision: ``relabeled dog by ann, 2026-11-26 10:30``."""
    if one is None:
        return None
    words = {
        Action.CONFIRM: "confirmed",
        Action.RELABEL: f"relabeled {one.value}",
        Action.EXCLUDE: "excluded",
        Action.DUPLICATE: f"duplicate of {one.value}",
    }[one.action]
    return f"{words} by {one.who}, {one.when[:16].replace('T', ' ')} UTC"


def history_rows(reviews: Sequence[Review]) -> list[Row]:
    """Return all decisions, newest first; ``stands`` marks those that count."""
    stands = {one.id for one in standing(reviews).values()}
    return [
        {
            "item": one.item_id,
            "decision": str(one.action),
            "value": one.value,
            "who": one.who,
            "when": one.when,
            "note": one.note,
            "stands": one.id in stands,
        }
        for one in sorted(reviews, key=lambda one: one.when, reverse=True)
    ]
