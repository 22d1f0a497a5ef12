"""Choose a head on a page, or train one with progress."""

from __future__ import annotations

import streamlit as st

import heads
from dashboard import caches, url_state
from dashboard.page_data import leaderboard, wording
from featurestore.store.dataset import DataSet
from featurestore.terms.specs import Modality, encoder_label
from heads.catalogue.layers import layers_of
from heads.catalogue.retraining import FINETUNE
from heads.catalogue.table import MIX, POOL_HEAD, default_heads
from heads.experiments.compare import LAYERS_HEAD
from heads.labels.tasks import Task
from heads.saved.bundle import FittedHead
from heads.saved.tapped import can_be_cut

HEADS_SAID = (
    "mix: heads on all encoders together, weighed. propagate: items without a label teach as well. "
    "layers: the layers of one network, weighed. finetune: the upper blocks of the network are "
    "trained, which takes minutes."
)


def choose_head(dataset: DataSet) -> FittedHead:
    """Let people choose among a data set's heads. Without one, offer to train it, and stop."""
    cards = {card["head_id"]: card for card in heads.list_heads(dataset)}
    if not cards:
        st.info("No head of this data set yet. Train one here, or type:")
        url_state.show_command(dataset.store, "train", dataset.name, "--head", "logistic")
        offer_training(dataset)
        st.stop()
    chosen = url_state.select(
        "Head", list(cards), key="head", show=lambda one: leaderboard.head_title(cards[one])
    )
    return caches.head(dataset, chosen)


def offer_training(dataset: DataSet) -> None:
    """Offer to train a head, with progress."""
    specs = [str(view.spec) for view in dataset.views()]
    labels = dataset.label_columns
    if not specs or not labels:
        return
    with st.popover("Train a head", icon=":material/model_training:"):
        label = st.selectbox("Label", labels, key="train label")
        task = Task(dataset.description.labels[label]["task"])
        at = specs.index(caches.default_spec(dataset) or specs[0])
        spec = st.selectbox("Encoder", specs, at, format_func=encoder_label, key="train encoder")
        able = {
            MIX: len(specs) > 1 or dataset.modality == Modality.TEXT,
            POOL_HEAD: task is Task.MULTICLASS,
            LAYERS_HEAD: bool(layers_of(dataset.view(spec))),
            FINETUNE: can_be_cut(dataset.view(spec)),
        }
        names = [*default_heads(task), "best", *(name for name in able if able[name])]
        head = st.selectbox("Head", names, key="train head", help=HEADS_SAID)
        reviews = st.checkbox("Apply reviews to the training rows", key="train reviews")
        trains = st.button("Train this head")
    if not trains:
        return
    bar = st.progress(0.0, "Reading the vectors…")

    def tell(n_done: int, n_fits: int, what: str) -> None:
        bar.progress(n_done / n_fits, wording.plain(f"{n_done} of {n_fits} fits: {what}"))

    read = dataset.views() if head == MIX else dataset.view(spec)
    fitted = heads.fit(read, head, label=label, apply_reviews=reviews, progress=tell)
    url_state.remember("head", fitted.head_id)
    bar.empty()
    metric, found = next(iter(fitted.card["metrics"].items()))
    st.success(
        wording.plain(f"Trained {fitted.head_id}: {metric.replace('_', ' ')} {found['value']:.3f}")
    )
    st.page_link("screens/one_head.py", label="See this head", icon=":material/fact_check:")
