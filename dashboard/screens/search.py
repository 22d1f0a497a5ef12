"""Find items: by words, by a picture of your own, by one of the items; by two encoders at once."""

import numpy as np
import streamlit as st

from dashboard import panels, state, views
from dashboard.gallery import gallery
from featurestore.errors import BadQuery, FeatureStoreError
from featurestore.values import Modality
from featurestore.view import View

NOBODY = "none"
MODES = {"item": "an item of the data set", "text": "words", "upload": "a picture of your own"}

dataset = state.dataset()
left, right, few = st.columns([3, 3, 1])
with left:
    view = panels.choose_encoder(dataset, clears=("beside",))
others = [str(one.spec) for one in dataset.views() if one.spec != view.spec]
with right:
    beside = state.select("Beside it", [NOBODY, *others], key="beside", show=lambda one: one
                          if one == NOBODY else views.encoder_label(one))  # fmt: skip
with few:
    k = int(state.select("Results", ["5", "10", "20", "50"], key="k", default="10"))
shown = [view] if beside == NOBODY else [view, dataset.view(beside).now()]

modes = ["item"]
if any(Modality.TEXT in one.modalities for one in shown):
    modes.append("text")
if dataset.modality == Modality.IMAGE:
    modes.append("upload")
first, second = st.columns([1, 3])
with first:
    mode = state.select("Look for", modes, key="look", show=lambda one: MODES[one])
where = state.text(second, "Filter (SQL over the items)", key="where", placeholder="split = 'test'")


def look_at(item_id: str) -> None:
    """Go on from a result to what is like it."""
    state.remember("item", item_id)
    state.remember("look", "item")


def query_of(one: View) -> tuple[np.ndarray | None, str | None]:
    """Return the query vector, or the row it is an item of."""
    if mode == "text":
        return (state.encode(one, words) if words else None), None
    if mode == "upload":
        return (state.encode(one, picture.getvalue()) if picture else None), None
    return None, state.recall("item")


words, picture = "", None
if mode == "text":
    words = state.text(st, "Words", key="q", placeholder="a scratch on grey steel")
elif mode == "upload":
    picture = st.file_uploader(
        "Picture", type=["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"], max_upload_size=20
    )
    st.caption("Not stored, and not part of this page's address.")
else:
    ids = state.items(dataset).column("item_id")
    typed = state.text(st, "Item", key="item", placeholder=ids[0].as_py() if len(ids) else "")
    if not typed:
        st.info("Click an item, or type its id.")
        panels.item_pages(dataset, ids.to_pylist(), name="Items", key="items")
        st.stop()
    try:
        panels.item_card(dataset, typed, key="item card")
    except FeatureStoreError as error:
        state.show(error)
        st.stop()

for column, one in zip(st.columns(len(shown), gap="large"), shown, strict=True):
    with column:
        st.markdown(f"**Nearest by {views.plain(one.spec.label)}** · cosine, 1 is closest")
        try:
            query, item = query_of(one)
            if query is None and item is None:
                st.caption("Say what to look for.")
                continue
            among = state.matching(one, where) if where else None
            found = views.found(state.index(one), query, item, k=k, among=among)
            rows = views.rows_of(state.items(dataset), [name for name, _ in found])
            if not rows:
                st.caption("Nothing fulfils the filter.")
                continue
            if item is not None:
                [about] = views.rows_of(state.items(dataset), [item])
                if said := views.agreement(about["label"], [row["label"] for row in rows]):
                    st.caption(said)
            gallery(
                state.cards(dataset, rows, [score for _, score in found]),
                name=f"Found by {one.spec.label}" if len(shown) > 1 else "Neighbours",
                key=f"found by {one.slug}",
                on_click=look_at,
            )
            panels.selection_actions(
                one,
                [name for name, _ in found],
                extra=views.scores_table(found),
                origin={"page": "search", "encoder": str(one.spec), "look": mode, "where": where},
                key=one.slug,
            )
        except (BadQuery, FeatureStoreError) as error:
            state.show(error)
