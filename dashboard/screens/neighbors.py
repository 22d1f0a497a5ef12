"""Items with thumbnails or texts; a click shows the nearest neighbours of one."""

import streamlit as st

from dashboard import state, views
from dashboard.gallery import gallery
from featurestore.errors import FeatureStoreError
from featurestore.values import EncoderSpec

PAGE_ITEMS = 24
ALL = "all"

dataset = state.dataset()
specs = [str(view.spec) for view in dataset.views()]
if not specs:
    st.info("This data set has no vectors yet. Embed it:")
    state.show_command(dataset.store, "embed", "--dataset", dataset.name, "-e", "ENCODER")
    st.stop()

items = state.items(dataset)
labels = [label for label in views.class_colors(items) if label != views.NO_LABEL]
boxes = st.columns([3, 2, 1])
with boxes[0]:
    spec = state.select(
        "Encoder", specs, key="encoder", show=lambda one: EncoderSpec.parse(one).label
    )
with boxes[1]:
    label = state.select("Label", [ALL, *labels], key="label")
with boxes[2]:
    k = int(state.select("Neighbours", ["5", "10", "20", "50"], key="k", default="10"))
view = dataset.view(spec)
selected = state.recall("item")
left, right = st.columns(2, gap="large")


def choose(item_id: str) -> None:
    """Keep a clicked item."""
    state.remember("item", item_id)


with left:
    shown = items if label == ALL else views.with_label(items, label)
    n_pages = max(1, -(-len(shown) // PAGE_ITEMS))
    st.markdown(f"**{len(shown):,} items** · click one")
    grid = st.container()  # above the page numbers, which must be known to draw it
    page = st.pagination(n_pages, key=f"page of {dataset.name} {label}") if n_pages > 1 else 1
    rows = shown.slice((page - 1) * PAGE_ITEMS, PAGE_ITEMS).to_pylist()
    with grid:
        cards = state.cards(dataset, rows)
        gallery(cards, name="Items", key="items", on_click=choose, selected=selected)

with right:
    if selected is None:
        st.info("Click an item to see its nearest neighbours.")
        st.stop()
    try:
        [item] = views.rows_of(items, [selected])
        card, about = st.columns([1, 2])
        with card:
            gallery(state.cards(dataset, [item]), name="Item", key="item card", on_click=choose)
        about.markdown(f"**{views.plain(selected)}**")
        about.caption(
            views.plain(f"{item['label'] or views.NO_LABEL} · {item['split'] or views.NO_SPLIT}")
        )
        found = views.neighbors(state.index(view), selected, k=k)
        nearest = views.rows_of(items, [one for one, _ in found])
        st.markdown(f"**Nearest by {views.plain(view.spec.label)}** · cosine, 1 is closest")
        if said := views.agreement(item["label"], [row["label"] for row in nearest]):
            st.caption(said)
        cards = state.cards(dataset, nearest, [score for _, score in found])
        gallery(cards, name="Neighbours", key="neighbours", on_click=choose)
    except FeatureStoreError as error:
        state.show(error)  # beside the items, not below them
