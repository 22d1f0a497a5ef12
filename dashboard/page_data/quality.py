"""What the Quality page shows: reports and decisions in, queues and tables out, no Streamlit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from dashboard.page_data.wording import Row, when
from featurestore.curation.reviews import Action, Review, standing
from featurestore.terms.specs import encoder_label
from heads import Issue, Issues
from heads.quality.issues import Kind

TOGETHER = "together "  # begins the note of decisions that were one press of a button


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


def clusters(
    issues: Sequence[Issue], decided: Mapping[str, Review], known: Collection[str]
) -> list[list[str]]:
    """Return the clusters of twins that are open: items that are twins of each other, sorted.

    Twins of a twin belong to the cluster. Items that were decided or deleted are left out, as are
    clusters of which one item is left.
    """
    root: dict[str, str] = {}

    def find(item: str) -> str:
        while root.setdefault(item, item) != item:
            item = root[item]
        return item

    for one in issues:
        for other in one.others:
            root[find(other)] = find(one.item_id)
    found: dict[str, list[str]] = {}
    for item in sorted(root):
        if item not in decided and item in known:
            found.setdefault(find(item), []).append(item)
    return [members for members in found.values() if len(members) > 1]


def duplicates(members: Sequence[Sequence[str]], label: str, note: str) -> list[Review]:
    """Return decisions that of each cluster all but the first are duplicates of the first."""
    return [
        Review(item, Action.DUPLICATE, label, first, note=note)
        for first, *rest in members
        for item in rest
    ]


def to_take_back(decided: Mapping[str, Review], who: str) -> list[Review]:
    """Return a person's latest decision; if it was one of a whole cluster, all of that decision."""
    own = sorted((one for one in decided.values() if one.who == who), key=lambda one: one.when)
    if not own or not own[-1].note.startswith(TOGETHER):
        return own[-1:]
    return [one for one in own if one.note == own[-1].note]


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
