"""Find items: by words, by a picture of your own, by one of the items; by two encoders at once."""

import numpy as np
import streamlit as st

from dashboard import caches, url_state, widgets
from dashboard.gallery import gallery
from dashboard.page_data import item_rows, wording
from featurestore.errors import BadQuery, FeatureStoreError
from featurestore.store.view import View
from featurestore.terms.specs import Modality, encoder_label

NOBODY = "none"
MODES = {"item": "an item of the data set", "text": "words", "upload": "a picture of your own"}

dataset = caches.dataset()
left, right, few = st.columns([3, 3, 1])
with left:
    view = widgets.choose_encoder(dataset, clears=("beside",))
others = [str(one.spec) for one in dataset.views() if one.spec != view.spec]
with right:
    beside = url_state.select("Beside it", [NOBODY, *others], key="beside", show=lambda one: one
                          if one == NOBODY else encoder_label(one))  # fmt: skip
with few:
    k = int(url_state.select("Results", ["5", "10", "20", "50"], key="k", default="10"))
shown = [view] if beside == NOBODY else [view, dataset.view(beside).now()]

modes = ["item"]
if any(Modality.TEXT in one.modalities for one in shown):
    modes.append("text")
if dataset.modality == Modality.IMAGE:
    modes.append("upload")
first, second = st.columns([1, 3])
with first:
    mode = url_state.select("Look for", modes, key="look", show=lambda one: MODES[one])
with second:
    where = url_state.text("Filter (SQL over the items)", key="where", placeholder="split = 'test'")


def look_at(item_id: str) -> None:
    """Go on from a result to what is like it."""
    url_state.remember("item", item_id)
    url_state.remember("look", "item")


def query_of(one: View) -> tuple[np.ndarray | None, str | None]:
    """Return the query vector, or the row it is an item of."""
    if mode == "text":
        return (caches.encode(one, words) if words else None), None
    if mode == "upload":
        return (caches.encode(one, picture.getvalue()) if picture else None), None
    return None, url_state.recall("item")


words, picture = "", None
if mode == "text":
    words = url_state.text("Words", key="q", placeholder="a scratch on grey steel")
elif mode == "upload":
    picture = st.file_uploader(
        "Picture", type=["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"], max_upload_size=20
    )
    st.caption("Not stored, and not part of this page's address.")
else:
    ids = caches.items(dataset).column("item_id")
    typed = url_state.text("Item", key="item", placeholder=ids[0].as_py() if len(ids) else "")
    if not typed:
        st.info("Click an item, or type its id.")
        widgets.draw_items(dataset, ids.to_pylist(), name="Items", key="items")
        st.stop()
    try:
        widgets.draw_item(dataset, typed, key="item card")
    except FeatureStoreError as error:
        url_state.show(error)
        st.stop()

for column, one in zip(st.columns(len(shown), gap="large"), shown, strict=True):
    with column:
        st.markdown(f"**Nearest by {wording.plain(one.spec.label)}** · cosine, 1 is closest")
        try:
            query, item = query_of(one)
            if query is None and item is None:
                st.caption("Say what to look for.")
                continue
            among = caches.matching(one, where) if where else None
            found = item_rows.found(caches.index(one), query, item, k=k, among=among)
            rows = item_rows.rows_of(caches.items(dataset), [name for name, _ in found])
            if not rows:
                st.caption("Nothing fulfills the filter.")
                continue
            if item is not None:
                [about] = item_rows.rows_of(caches.items(dataset), [item])
                if said := item_rows.agreement(about["label"], [row["label"] for row in rows]):
                    st.caption(said)
            gallery(
                caches.cards(dataset, rows, [score for _, score in found]),
                name=f"Found by {one.spec.label}" if len(shown) > 1 else "Neighbors",
                key=f"found by {one.slug}",
                on_click=look_at,
            )
            widgets.offer_selection_actions(
                one,
                [name for name, _ in found],
                extra=item_rows.scores_table(found),
                origin={"page": "search", "encoder": str(one.spec), "look": mode, "where": where},
                key=one.slug,
            )
        except (BadQuery, FeatureStoreError) as error:
            url_state.show(error)
