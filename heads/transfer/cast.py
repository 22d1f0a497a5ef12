"""Which views take part in an assessment: the judged, their reference, random weights, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import NotEnoughData
from featurestore.terms.specs import EncoderSpec, Modality
from heads.catalogue.words import IMPORTED
from heads.transfer.views import PIXELS

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View
    from heads.transfer.rank import Ranked

WITHOUT_PRETRAINING = ("baseline", "random")
LEAST_SEEDS = 3  # of random weights, for a mean over seeds


@dataclass(frozen=True, eq=False)
class Cast:
    """Views of one data set, by the part that each plays."""

    judged: Sequence[View]
    reference: View | None  # given, or raw pixels; None: texts are judged against TF-IDF
    is_given: bool  # the reference was named, so the majority cannot take its place
    randoms: Mapping[str, Sequence[View]]  # judged spec → random weights of its architecture
    known: Sequence[View]  # all views of the data set
    notes: Sequence[str]

    @property
    def dataset(self) -> DataSet:
        """The data set of all of them."""
        return self.judged[0].dataset

    @property
    def seeds(self) -> list[View]:
        """The views of random weights."""
        return [view for views in self.randoms.values() for view in views]

    @property
    def loaded(self) -> list[View]:
        """The views whose vectors are needed, each once."""
        views = [*self.judged, *self.seeds, *([] if self.reference is None else [self.reference])]
        return list({str(view.spec): view for view in views}.values())

    @property
    def can_blend(self) -> bool:
        """Whether there are raw features to put beside an encoder."""
        is_text = self.dataset.modality == Modality.TEXT
        return self.reference is not None and (self.is_given or not is_text)


def cast_of(views: Sequence[View], reference: View | None) -> Cast:
    """Find who is judged against what, among all views of the data set.

    Raises
    ------
    NotEnoughData
        If there is no baseline, or nothing to judge.
    """
    dataset = views[0].dataset
    known = {str(view.spec): view for view in dataset.views()}
    against = known.get(PIXELS) if reference is None else reference
    if against is None and dataset.modality != Modality.TEXT:
        raise _no_baseline(views)
    judged = [view for view in views if _is_judged(view.spec, reference)]
    if not judged:
        raise NotEnoughData("no pretrained encoder among the views: nothing to judge")
    randoms = {str(view.spec): random_weights(view.spec, known) for view in judged}
    notes = [
        f"{spec} has {len(seeds)} views of random weights: {LEAST_SEEDS} or more seeds are needed."
        for spec, seeds in randoms.items()
        if 0 < len(seeds) < LEAST_SEEDS
    ]
    enough = {spec: seeds for spec, seeds in randoms.items() if len(seeds) >= LEAST_SEEDS}
    return Cast(judged, against, reference is not None, enough, list(known.values()), notes)


def _is_judged(spec: EncoderSpec, reference: View | None) -> bool:
    if reference is None:
        return spec.family not in WITHOUT_PRETRAINING
    return spec != reference.spec


def _no_baseline(views: Sequence[View]) -> NotEnoughData:
    name = views[0].dataset.name
    if all(view.spec.family == IMPORTED for view in views):
        return NotEnoughData(
            f"{name} holds imported vectors without their items, so there is no baseline without "
            "pretraining to judge them against: name a view as reference (--against SPEC)"
        )
    return NotEnoughData(
        f"{name} has no view of {PIXELS} to judge encoders against: "
        f"`featurestore embed --dataset {name} -e {PIXELS}`"
    )


def random_weights(spec: EncoderSpec, known: Mapping[str, View]) -> list[View]:
    """Return the views of random weights of an encoder's architecture, at the same layer.

    Two spellings of one seed are one network, told by their fingerprints.
    """
    untrained = EncoderSpec.parse(f"random:{spec}").with_option("seed", None)
    views = {
        view.fingerprint: view
        for view in known.values()
        if view.spec.with_option("seed", None) == untrained
    }
    return list(views.values())


def layers_of(judged: Sequence[View]) -> list[list[View]]:
    """Return the views that are layers of one network, pooled alike, the last layer last.

    A view of several layers is none of them.
    """
    networks: dict[tuple[str, str], list[View]] = {}
    for view in judged:
        if view.spec.has_layers:
            continue
        key = str(view.spec.network), view.spec.option("pool", "")
        networks.setdefault(key, []).append(view)
    return [
        sorted(views, key=lambda view: depth_of(view.spec))
        for views in networks.values()
        if len(views) > 1
    ]


def by_depth(ranking: Sequence[Ranked]) -> dict[str, list[tuple[str, Ranked]]]:
    """Return the scored layers of each network that has several, by its name: (layer, scores).

    The lowest comes first, ``the last`` is the network's own output. Baselines and random weights
    are left out, as are layers that no head was trained on.
    """
    networks: dict[str, list[tuple[EncoderSpec, Ranked]]] = {}
    for one in ranking:
        spec = EncoderSpec.parse(one.encoder)
        if one.head_value is not None and spec.family not in ("baseline", "random"):
            networks.setdefault(str(spec.network), []).append((spec, one))
    return {
        network: [
            (spec.option("layer", "the last"), one)
            for spec, one in sorted(found, key=lambda pair: depth_of(pair[0]))
        ]
        for network, found in networks.items()
        if len(found) > 1
    }


def depth_of(spec: EncoderSpec) -> float:
    """Return a number that grows with the depth of a layer; -1 and nothing are the end."""
    layer = spec.option("layer", "-1")
    number = float(layer) if layer.lstrip("-").isdecimal() else 0.0
    return number if number >= 0 else 1e6 + number
