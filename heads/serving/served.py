"""What is served: heads by their names, their encoders in lanes, and data sets to search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from featurestore import __version__
from featurestore.encoders.encode_now import open_encoder
from featurestore.encoders.trust import Trust
from featurestore.errors import BadName, UnknownDataset, UnknownEncoder, UnknownHead, nearest
from featurestore.terms.specs import EncoderSpec
from heads.saved.beside import columns_of
from heads.saved.bundle import FittedHead
from heads.saved.serve import blocks_of, modality_of, opened_top, places_of
from heads.saved.tapped import READS_TAP
from heads.serving.lane import Lane, OpenEncoder
from heads.serving.limits import Limits

if TYPE_CHECKING:
    from featurestore.store.store import Store
    from featurestore.store.view import View
    from featurestore.store.view_index import Index


@dataclass(frozen=True, eq=False)
class ServedHead:
    """A head that answers, and the lane that its items take."""

    head: FittedHead
    lane: Lane

    def about(self) -> dict[str, Any]:
        """Return what a client has to know of it, and which versions answer."""
        card = self.head.card
        return {
            "head": card.head_id,
            "kind": card.head,
            "task": str(self.head.task),
            "reads": str(modality_of(self.head)),
            "classes": list(self.head.classes),
            "encoder": card.encoder,
            "columns": list(columns_of(self.head)),
            "has_sets": card.conformal is not None,
            "cannot_tell_unlike": self.head.cannot_tell,
            "versions": self.versions(),
        }

    def versions(self) -> dict[str, Any]:
        """Return what decides an answer: head, encoder, program."""
        card = self.head.card
        return {
            "head": card.head_id,
            "head_sha256": card.head_sha256,
            "encoder_fingerprint": card.fingerprint,
            "featurestore": __version__,
        }


class Served:
    """Heads and data sets of one server. An encoder that several of them use is opened once.

    Parameters
    ----------
    heads : mapping of str to FittedHead
        By the names that they are asked by; the first is asked where none is named.
    store : Store, optional
        Whose data sets are searched.
    encoder : str, optional
        Where the heads' encoder is now, as of `predict`.
    """

    def __init__(
        self,
        heads: Mapping[str, FittedHead],
        *,
        limits: Limits,
        store: Store | None = None,
        encoder: str | None = None,
        trust: Trust = False,
    ) -> None:
        if not heads and store is None:
            raise BadName("nothing to serve: name a bundle, or a store with --store")
        self.limits, self.store, self.trust, self.encoder = limits, store, trust, encoder
        self._lanes: dict[tuple[str, ...], Lane] = {}
        self._encoders: dict[str, OpenEncoder] = {}
        self._indexes: dict[str, tuple[str, View, Index]] = {}
        self._lock = Lock()
        self.heads: dict[str, ServedHead] = {}
        try:
            for name, head in heads.items():
                self.add(name, head)
        except BaseException:
            self.close()
            raise

    def add(self, name: str, head: FittedHead) -> None:
        """Serve a head under a name, in place of the one that had it."""
        with self._lock:
            self.heads[name] = ServedHead(head, self._lane_of(head))

    def head(self, name: str | None) -> ServedHead:
        """Return the head of a name, or the first one.

        Raises
        ------
        UnknownHead
        """
        heads = self.heads
        if name is None and heads:
            return next(iter(heads.values()))
        for known, one in heads.items():
            if name in (known, one.head.head_id):
                return one
        raise UnknownHead(f"no head {name!r}: {nearest(str(name), list(heads))}")

    def lane(self, encoder: str | None) -> tuple[Lane, int]:
        """Return a lane that holds an encoder, by its spec, and its place there.

        Raises
        ------
        UnknownEncoder
            If no served head has it, or none is named and there are several.
        """
        lanes = sorted(self._lanes.values(), key=lambda one: len(one.encoders))
        places = {
            str(one.resolved.spec): (lane, at)
            for lane in reversed(lanes)
            for at, (one, _) in enumerate(lane.encoders)
            if one.tap is None
        }
        if encoder is None and len(places) == 1:
            return next(iter(places.values()))
        if encoder in places:
            return places[encoder]
        raise UnknownEncoder(
            f"name one of the encoders: {', '.join(sorted(places)) or 'none is served'}"
        )

    def index(self, dataset: str, encoder: str | None) -> tuple[View, Index]:
        """Return a view and an index of its present state, which is kept until it changes.

        Raises
        ------
        BadName, UnknownDataset, UnknownView
        """
        from featurestore.store.default_view import default_view

        if self.store is None:
            raise BadName("there is nothing to search: start the server with --store")
        try:
            found = self.store.dataset(dataset)
        except UnknownDataset:  # which says where the store lies
            known = nearest(dataset, self.store.datasets())
            raise UnknownDataset(f"no data set {dataset!r} here: {known}") from None
        view = found.view(encoder) if encoder else default_view(found, None)[0]
        if view is None:
            raise BadName(f"name the encoder: {', '.join(found.listed_views()) or 'no vectors'}")
        with self._lock:
            pinned = view.now()
            state = pinned.state  # a data set that was made anew may have the same versions
            kept = self._indexes.get(view.name)
            if kept is None or kept[0] != state:
                kept = (state, pinned, pinned.index(waits=False))
                self._indexes[view.name] = kept
        return kept[1], kept[2]

    def lane_of_view(self, view: View) -> Lane:
        """Return the lane of a view's encoder, opened if no head uses it."""
        with self._lock:
            key = (str(view.info["fingerprint"]),)
            if key not in self._lanes:
                self._lanes[key] = Lane([self._opened(view.info, None)], self.limits)
            return self._lanes[key]

    def close(self) -> None:
        """Answer what is waiting, then end."""
        for lane in self._lanes.values():
            lane.close()

    def _lane_of(self, head: FittedHead) -> Lane:
        if head.card.reads == READS_TAP:
            key: tuple[str, ...] = (head.head_id,)
            encoders: list[OpenEncoder] = []
            if key not in self._lanes:
                encoders = [OpenEncoder(opened_top(head, self.encoder), Lock())]
        elif head.card.reads == "texts":
            key, encoders = (), []
        else:
            blocks = blocks_of(head)
            key = tuple(str(block["fingerprint"]) for block in blocks)
            places = places_of(blocks, self.encoder)
            encoders = [self._opened(*one) for one in zip(blocks, places, strict=True)]
        if key not in self._lanes:
            self._lanes[key] = Lane(encoders, self.limits)
        return self._lanes[key]

    def _opened(self, block: Mapping[str, Any], place: EncoderSpec | None) -> OpenEncoder:
        name = str(block["fingerprint"])
        if name not in self._encoders:
            opened = open_encoder(block, place, trust=self.trust)
            self._encoders[name] = OpenEncoder(opened, Lock())
        return self._encoders[name]


def named(heads: Sequence[FittedHead], places: Sequence[str]) -> dict[str, FittedHead]:
    """Return heads by the names of their folders, or by their ids where two have one name."""
    names = [Path(place).name for place in places]
    if len(set(names)) < len(names):
        names = [one.head_id for one in heads]
    if len(set(names)) < len(names):
        raise BadName(f"one head is named twice: {', '.join(sorted(names))}")
    return dict(zip(names, heads, strict=True))
