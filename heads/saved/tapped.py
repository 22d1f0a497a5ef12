"""What heads read that retrain a network: its activations at a cut, and the blocks above."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.encoders import encode_now
from featurestore.encoders.loading import with_known_cut
from featurestore.errors import BadName, EncoderMismatch, UnknownItem
from featurestore.storage.columns import item_keys
from featurestore.store.commands import command_line
from featurestore.terms.activations import Activations
from featurestore.terms.snapshots import Snapshot
from featurestore.terms.specs import EncoderSpec
from featurestore.terms.taps import AUTO
from heads.catalogue.entry import HeadEntry
from heads.labels.pace import pace
from heads.labels.views import AnyView
from heads.saved.concat import stored

if TYPE_CHECKING:
    from featurestore.encoders.torch_network import TorchEncoder
    from featurestore.pipeline.report import Progress
    from featurestore.store.view import View

READS_TAP = "tap"
_NAMED = 3  # of items that are left out


def upper_from(encoder: TorchEncoder) -> Callable[[], Any]:
    """Return what copies the blocks above an encoder's cut."""

    def upper() -> Any:
        from featurestore.encoders.upper_part import upper_of

        return upper_of(encoder)

    return upper


def can_be_cut(view: AnyView) -> bool:
    """Whether the encoder of a view has blocks that can be retrained."""
    from featurestore.encoders.families import families

    family = families().get(view.spec.family)
    return family is not None and "tap" in family.options and len(stored(view)) == 1


def no_cut(view: AnyView, head: str) -> BadName:
    """Return the error for a head that retrains, of an encoder that has no blocks."""
    from featurestore.encoders.families import families

    able = ", ".join(f"{name}:" for name, one in families().items() if "tap" in one.options)
    if len(stored(view)) > 1:
        return BadName(f"head {head} retrains one encoder, and {view.name} holds several")
    return BadName(
        f"head {head} retrains the upper blocks of a network, and {view.spec.label} has none; "
        f"encoders of {able} have some"
    )


@dataclass(frozen=True, eq=False)
class Tapped:
    """One encoder's activations of some items, and the blocks above its cut."""

    cut: int
    activations: Activations
    upper: Callable[[], Any]


def tapped(view: View, entry: HeadEntry, ids: NDArray[Any]) -> Tapped:
    """Return the activations of items (n,) as the view has them, made where the store lacks some.

    Raises
    ------
    EncoderMismatch
        If the tap is of other weights than the vectors.
    UnknownItem
        If an item cannot be read or encoded any more, or has another content than in the view.
    NoRoom
        If the disk has no room for them.
    """
    tap, lacks = _made(view, entry, ids.astype(str).tolist())
    if lacks:
        raise _not_made(tap, lacks, len(ids))
    encoder = encode_now.open_encoder(tap.info, trust=tap.trust)
    assert tap.tap is not None, "embed_tap returns a tap"
    names = ids.astype(str).tolist()
    return Tapped(tap.tap.cut, tap.activations(names), upper_from(encoder))  # type: ignore[arg-type]


def untapped(
    views: Sequence[AnyView], entries: Sequence[HeadEntry], ids: NDArray[Any]
) -> tuple[list[str], list[str]]:
    """Make what taps lack of items (n,); return those that no tap can hold, and notes on them.

    Raises
    ------
    UnknownItem
        If that is every item.
    EncoderMismatch, NoRoom
        As of `tapped`.
    """
    names, found, notes = ids.astype(str).tolist(), set[str](), []
    for view in filter(can_be_cut, views):
        for entry in entries:
            tap, lacks = _made(stored(view)[0], entry, names)
            if len(lacks) == len(names):
                raise _not_made(tap, lacks, len(names))
            if lacks:
                notes.append(_apart_note(tap, lacks, len(names)))
            found |= set(lacks)
    return sorted(found), notes


def _made(view: View, entry: HeadEntry, names: list[str]) -> tuple[View, list[str]]:
    """Return the tap of a view, made where the store lacks some items, and those it cannot hold."""
    spec = wanted_tap(view, entry)
    hear = pace()

    def tell(now: Progress) -> None:
        hear.tell(f"making a tap of {view.spec.label}: {now.n_done:,} of {now.n_total:,} items")

    n_items = view.snapshot.items  # of before: a run of embed may change them

    def of_these(tap: View) -> tuple[View, list[str]]:
        """Return a tap with the contents that the view has, and the names that it lacks."""
        tap = tap.as_of(Snapshot(n_items, tap.table.version()))
        there = set(tap.items().column("item_id").to_pylist())
        return tap, [one for one in names if one not in there]

    found = next((one for one in view.dataset.taps() if one.spec == spec), None)
    tap, lacks = (None, names) if found is None else of_these(found)
    if tap is None or lacks:
        _check_contents(view, n_items, lacks)
        made = view.dataset.embed_tap(spec, names, progress=tell, say=hear.say)
        tap, lacks = of_these(made)
    _check_weights(view, tap)
    if lacks:
        _check_contents(view, n_items, lacks)
    return tap, lacks


def _check_weights(view: View, tap: View) -> None:
    """Raise EncoderMismatch if a tap is of another network than the vectors."""
    own, other = ({**one.info["chosen"], "tap": None} for one in (view, tap))
    changed = sorted(key for key in {**own, **other} if own.get(key) != other.get(key))
    if changed:
        line = _embed(view, str(view.spec), "-e", str(tap.spec), "--overwrite")
        raise EncoderMismatch(
            f"{tap.name} and the vectors of {view.name} are of different networks (other: "
            f"{', '.join(changed)}), so one head cannot use both. Make both with the network that "
            f"is there now: `{line}`"
        )


def _check_contents(view: View, n_items: int, names: list[str]) -> None:
    """Raise UnknownItem if items that a tap lacks have another content now, or are gone."""
    table = view.dataset.folder.items
    if table.version() == n_items:
        return
    ids, keys = pa.array(names, pa.string()), ["item_id", "content_hash"]
    before, now = table.read(keys, n_items, ids=ids), table.read(keys, ids=ids)
    is_same = pc.is_in(item_keys(before), value_set=item_keys(now))
    other = sorted(before.filter(pc.invert(is_same)).column("item_id").to_pylist())
    if other:
        raise UnknownItem(
            f"{len(other):,} of {len(names):,} items of {view.name} have changed or are gone since "
            f"the snapshot that is read (first: {other[0]}), and no tap holds what they were. "
            f"Retrain on the present state: `{_embed(view, str(view.spec))}`, then open the view "
            "without a snapshot"
        )


def _reasons(tap: View) -> dict[str, str]:
    """Return why items are not in a tap, by name, as far as it is known."""
    failures = tap.dataset.failures()
    is_own = pc.is_in(failures.column("fingerprint"), value_set=pa.array(["", tap.fingerprint]))
    rows = failures.filter(is_own).select(["item_id", "error"]).to_pylist()
    return {row["item_id"]: row["error"] for row in rows}


_GONE = "it is gone from its source"


def _apart_note(tap: View, names: list[str], n: int) -> str:
    """Say which items are left out, as a tap cannot hold them."""
    reasons = _reasons(tap)
    said = ", ".join(f"{one} ({reasons.get(one, _GONE)})" for one in names[:_NAMED])
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    is_one = len(names) == 1
    return (
        f"{len(names):,} of {n:,} items {'has' if is_one else 'have'} no activations in "
        f"{tap.name} and {'is' if is_one else 'are'} not used: {said}{more}. To try "
        f"{'it' if is_one else 'them'} again: `{_embed(tap, str(tap.spec), '--retry-failed')}`."
    )


def _not_made(tap: View, names: list[str], n: int) -> UnknownItem:
    """Return the error for items that a run of embed could not add to a tap."""
    reasons = _reasons(tap)
    first = next((one for one in names if one in reasons), names[0])
    return UnknownItem(
        f"{tap.name} lacks {len(names):,} of {n:,} items, which could not be added. First: {first} "
        f"({reasons.get(first, _GONE)}). Mend these items, then run "
        f"`{_embed(tap, str(tap.spec), '--retry-failed')}`"
    )


def _embed(view: View, *words: str) -> str:
    dataset = view.dataset
    return command_line("embed", "--dataset", dataset.name, "-e", *words, store=dataset.store.path)


def wanted_tap(view: AnyView, entry: HeadEntry) -> EncoderSpec:
    """Return the spec of the tap that a head reads: one that is there, if the head may choose."""
    (one,) = stored(view)
    is_text = one.dataset.modality == "text"
    spec = one.spec.with_option("tap", entry.tap)
    spec = spec.with_option("variants", None if is_text else entry.variants or None)
    if entry.tap == AUTO:
        for tap in one.dataset.taps():
            if tap.spec.untapped == one.spec and tap.spec.option("variants", "") == (
                spec.option("variants", "")
            ):
                return tap.spec
    return with_known_cut(spec)
