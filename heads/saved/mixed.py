"""Several inputs for one head, each by itself: views of one data set, and the items' texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadSource
from featurestore.store.commands import command_line
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.specs import EncoderSpec, Modality
from featurestore.terms.vectors import unit_rows
from heads.catalogue.members import TEXTS
from heads.labels.blocks import Blocks
from heads.labels.tasks import texts_of
from heads.saved.concat import ConcatView, check_one_dataset

if TYPE_CHECKING:
    from featurestore.store.view import View

PIXELS = "baseline:pixels"
READS = BLOCKS, BLOCKS_AND_TEXTS = "blocks", "blocks and texts"  # what cards of a mix say


@dataclass(frozen=True)
class MixView(ConcatView):
    """The inputs of a mix: the vectors of encoders as they are stored, and texts, if any.

    It has what heads ask of a view. ``load`` puts the vectors side by side; ``inputs`` takes
    them apart again.
    """

    @property
    def spec(self) -> EncoderSpec:
        """A spec such as ``mix:timm:resnet18+baseline:pixels``."""
        return EncoderSpec("mix", self.names)

    @property
    def fingerprint(self) -> str:
        """That of the one encoder; of several the SHA-256 (hex) of theirs."""
        return self.views[0].fingerprint if len(self.views) == 1 else super().fingerprint

    def inputs(self, table: Embeddings) -> Blocks:
        """Return what heads read of a table that ``load`` gave, or of some of its rows."""
        has_texts = self.dataset.modality == Modality.TEXT
        return apart(self.blocks, table.vectors, texts_of(table) if has_texts else None)


def mix(views: View | Sequence[View]) -> MixView:
    """Give several inputs to one head: ``heads.fit(heads.mix([a, b]), "mix")``.

    Texts are an input of their own. `heads.fit`, `heads.compare`, `heads.curve` and bundles take
    it as they take a view; the heads ``mix`` and ``best`` read it.

    Parameters
    ----------
    views : View or sequence of View
        Of one data set. To a single view of pictures their raw pixels are added, the reference
        without pretraining.

    Raises
    ------
    BadSource
        If there is one input alone, an encoder is named twice, or data sets differ.
    """
    given = list(views) if isinstance(views, Sequence) else [views]
    if not given:
        raise BadSource("a mix needs two inputs, and there is no view")
    check_one_dataset(given, "mix")
    specs = [str(view.spec) for view in given]
    if twice := sorted({spec for spec in specs if specs.count(spec) > 1}):
        raise BadSource(f"mix got {', '.join(twice)} twice: name each encoder once")
    if len(given) == 1 and given[0].dataset.modality != Modality.TEXT:
        given.append(_pixels_beside(given[0]))
    return MixView(tuple(given), (1.0,) * len(given))


def _pixels_beside(view: View) -> View:
    """Return the view of raw pixels of the same pictures.

    Raises
    ------
    BadSource
        If there is none, or it is the view itself: says what to embed or to name.
    """
    dataset, own = view.dataset, str(view.spec)
    others = {str(one.spec): one for one in dataset.views() if str(one.spec) != own}
    if own != PIXELS and PIXELS in others:
        pixels = others[PIXELS]
        return pixels if view.slice_ is None else pixels.within(view.slice_)
    ways = [f"name another view as well ({', '.join(others)})"] if others else []
    if view.spec.family != "import":
        more = "builtin:tiny-image" if own == PIXELS else PIXELS
        words = ("embed", "--dataset", dataset.name, "-e", more)
        ways.append(f"type {command_line(*words, store=dataset.store.path)}")
    raise BadSource(f"a mix needs two inputs, and {view.name} is one: {', or '.join(ways)}")


def apart(
    blocks: Sequence[Mapping[str, Any]],
    vectors: NDArray[Any],
    texts: Sequence[str] | NDArray[Any] | None = None,
) -> Blocks:
    """Take vectors of several encoders that stand side by side, (n, dim), apart; add texts."""
    ends = np.cumsum([block["dim"] for block in blocks])[:-1]
    parts = np.split(np.asarray(vectors), ends, axis=1)
    found = {
        str(block["spec"]): np.ascontiguousarray(part)
        for block, part in zip(blocks, parts, strict=True)
    }
    if texts is not None:
        found[TEXTS] = np.array(texts, dtype=object)
    return Blocks(found)


def telling(blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the encoders that say which items are unlike others: pretrained ones, if any."""
    specs = [str(block["spec"]) for block in blocks]
    return [spec for spec in specs if not spec.startswith("baseline:")] or specs


def told(inputs: Blocks, blocks: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    """Return the vectors that say which items are unlike others, (n, dim); several of length 1."""
    specs = telling(blocks)
    if len(specs) == 1:
        return cast("NDArray[Any]", inputs.block(specs[0]))
    return np.hstack([unit_rows(inputs.block(spec)) for spec in specs])
