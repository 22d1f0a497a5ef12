"""drift: whether what came in differs from what a head learned from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from featurestore.cli.exit_codes import DRIFTED, TOO_FEW_ITEMS
from featurestore.cli.layout import command
from featurestore.cli.options import json_option, place_of_head, store_option, trust_option
from featurestore.cli.printing import print_json, print_table, say, tell
from featurestore.store.commands import command_line

if TYPE_CHECKING:
    from heads.drift.compare import Drift
    from heads.saved.bundle import FittedHead

_DAYS = 7
_SHOWN = 10


@command(epilog="Example: featurestore store drift bundle/ answers/ --days 7")
@click.argument("bundle")
@click.argument("folder", metavar="LOG")
@click.option(
    "--days", type=click.IntRange(1), help=f"Look at the last N days; {_DAYS} by default."
)
@click.option("--since", type=click.DateTime(), help="Look from this moment on (UTC).")
@click.option("--until", type=click.DateTime(), help="Look before this moment (UTC).")
@click.option(
    "--alpha", type=click.FloatRange(0, 0.5, min_open=True), default=0.05, show_default=True,
    help="Share of weeks without drift that are allowed a false alarm.",
)  # fmt: skip
@trust_option
@store_option
@json_option
def drift(
    bundle: str,
    folder: str,
    days: int | None,
    since: datetime | None,
    until: datetime | None,
    alpha: float,
    trust: bool,
    store_path: str,
    as_json: bool,
) -> int:
    """Compare what a head was asked with what it learned from.

    LOG is the folder that `predict` or `serve` filled (--log-to). Exit 0: no drift seen; 5: drift;
    6: too few items to tell. Where the log holds vectors, and the store the training items, these
    are compared as well.
    """
    from heads.drift.compare import drift as compare
    from heads.saved.answer_log import read_log
    from heads.saved.bundle import load_bundle

    if days is not None and since is not None:
        raise click.UsageError("--days and --since both say where to begin: give one")
    head = load_bundle(place_of_head(bundle, store_path), trust=trust)
    end = None if until is None else until.replace(tzinfo=UTC)
    begin = (end or datetime.now(UTC)) - timedelta(days=days or _DAYS)
    log = read_log(
        folder, head, since=begin if since is None else since.replace(tzinfo=UTC), until=end
    )
    training, why = None, ""
    if any("vector" in row for row in log.rows):
        training, why = _training(head, store_path)
    found = compare(head, log, training=training, alpha=alpha)
    if why:
        say(f"vectors are not compared: {why}")
    if as_json:
        print_json(found.to_json())
    else:
        _show(found, head, store_path)
    return (DRIFTED if found.is_drift else 0) if found.is_enough else TOO_FEW_ITEMS


def _training(head: FittedHead, store_path: str):  # type: ignore[no-untyped-def]
    """Return the training vectors that the store has, or None and why."""
    from featurestore.storage.remote import as_path
    from featurestore.storage.store_marker import check_store
    from featurestore.store.store import open_store
    from heads.drift.training import training_vectors

    if not check_store(as_path(store_path)):
        return None, f"there is no store at {store_path} (--store)"
    return training_vectors(head, open_store(store_path))


def _show(found: Drift, head: FittedHead, store_path: str) -> None:
    for line in found.sentences():
        tell(line)
    if not found.items or not found.is_enough:
        return
    tell("")
    rows = [
        [one.item_id, f"{one.at:%Y-%m-%d %H:%M}", f"{one.share:.3f}", _said(one.predicted),
         one.text or one.path or (str(one.picture) if one.picture else "")]
        for one in found.items[:_SHOWN]
    ]  # fmt: skip
    print_table(["farthest out", "at (UTC)", "unlike", "predicted", "item"], rows)
    if found.is_drift:
        line = command_line("suggest", head.card.dataset, "-o", "todo.csv", store=store_path)
        tell(
            "Look at these first. If more of their kind will come, embed them with the training "
            "items (featurestore embed), label some, and train again."
        )
        tell(f"Type next, to see which to label: {line}")


def _said(value: object) -> str:
    if isinstance(value, list):
        return "|".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
