"""The vectors that a head learned from, as a store still has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import FeatureStoreError
from heads.saved.bundle import FittedHead
from heads.saved.concat import concat

if TYPE_CHECKING:
    from featurestore.store.store import Store


def training_vectors(head: FittedHead, store: Store) -> tuple[NDArray[np.float32] | None, str]:
    """Return what the head read of its training items, (n, dim), or why there is none.

    The state of the store that it learned from, without a test split.
    """
    card = head.card
    if card.reads != "vectors" or not head.blocks:
        return None, f"the head reads {card.reads}, not one vector an item"
    try:
        dataset = store.dataset(card.dataset)
        if card.slice is not None:
            dataset = dataset.within(card.slice)
        own = {view.fingerprint: view for view in dataset.views()}
        views = [own[str(block["fingerprint"])] for block in head.blocks]
        several = len(views) > 1 or card.metadata_columns is not None
        if card.snapshot is not None and not several:
            views = [views[0].as_of(card.snapshot)]
        items = concat(views, like=head).load() if several else views[0].load()
    except KeyError:
        return None, f"{card.dataset} has no view of {card.encoder} any more"
    except FeatureStoreError as error:
        return None, str(error)
    teaches = items.column("split") != "test"
    return items.vectors[teaches], ""
