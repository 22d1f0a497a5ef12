"""Parts that several pages share: an item with its neighbours, what to do with a selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import streamlit as st

import heads
from dashboard import caches, url_state
from dashboard.gallery import gallery
from dashboard.jobs import Job, _watch, jobs
from dashboard.page_data import classes, explore, item_rows, wording
from featurestore.curation.slices import save_slice
from featurestore.errors import FeatureStoreError
from featurestore.store.dataset import DataSet
from featurestore.store.view import View
from featurestore.terms.specs import encoder_label
from heads.catalogue.table import default_heads
from heads.labels.tasks import Task

PAGE_ITEMS = 24


def choose_item(item_id: str) -> None:
    """Keep a clicked item."""
    url_state.remember("item", item_id)


def choose_encoder(dataset: DataSet, *, clears: Sequence[str] = ()) -> View:
    """Let people choose among a data set's views, pinned to now; stop where there is none.

    What has learned something comes before what has not.
    """
    specs = [str(view.spec) for view in dataset.views()]
    if not specs:
        st.info("This data set has no vectors yet. Embed it:")
        url_state.show_command(dataset.store, "embed", "--dataset", dataset.name, "-e", "ENCODER")
        st.stop()
    default = next((one for one in specs if not one.startswith(("baseline:", "random:"))), specs[0])
    chosen = url_state.select(
        "Encoder", specs, key="encoder", default=default, show=encoder_label, clears=clears
    )
    return dataset.view(chosen).now()  # one state for all that the page reads of it


def choose_run(
    dataset: DataSet,
    found: Sequence[Any],
    label: str,
    *,
    key: str,
    show: Callable[[Any], str],
    none: str,
    words: Sequence[str],
    clears: Sequence[str] = (),
) -> Any:
    """Let people choose among stored runs, newest first.

    Where there is none, say so (``none``), show the command that makes one, and stop.
    """
    runs = {str(one.card["created"]): one for one in found}
    if not runs:
        st.info(none)
        url_state.show_command(dataset.store, *words)
        st.stop()
    chosen = url_state.select(
        label, list(runs), key=key, show=lambda created: show(runs[created]), clears=clears
    )
    return runs[chosen]


def item_card(dataset: DataSet, item_id: str, *, key: str) -> wording.Row:
    """Draw one item beside what is known of it; return its row."""
    [item] = item_rows.rows_of(caches.items(dataset), [item_id])
    card, about = st.columns([2, 3])
    with card:
        gallery(caches.cards(dataset, [item]), name="Item", key=key, on_click=choose_item)
    about.markdown(f"**{wording.plain(item_id)}**")
    about.caption(
        wording.plain(f"{item['label'] or wording.NO_LABEL} · {item['split'] or classes.NO_SPLIT}")
    )
    return item


def neighbours(view: View, item_id: str, *, k: int = 10, key: str = "") -> None:
    """Draw an item and its nearest neighbours; what goes wrong is said in place."""
    dataset = view.dataset
    try:
        item = item_card(dataset, item_id, key=f"item card{key}")
        found = item_rows.neighbors(caches.index(view), item_id, k=k)
        nearest = item_rows.rows_of(caches.items(dataset), [one for one, _ in found])
        st.markdown(f"**Nearest by {wording.plain(view.spec.label)}** · cosine, 1 is closest")
        if said := item_rows.agreement(item["label"], [row["label"] for row in nearest]):
            st.caption(said)
        cards = caches.cards(dataset, nearest, [score for _, score in found])
        gallery(cards, name="Neighbours", key=f"neighbours{key}", on_click=choose_item)
    except FeatureStoreError as error:
        url_state.show(error)


def item_pages(
    dataset: DataSet,
    ids: Sequence[str] | pa.ChunkedArray,
    *,
    name: str,
    key: str,
    selected: str | None = None,
) -> None:
    """Draw items page by page; a click chooses one."""
    n_pages = max(1, -(-len(ids) // PAGE_ITEMS))
    grid = st.container()  # above the page numbers, which must be known to draw it
    page = _page_of(len(ids), n_pages, key)
    few = ids[(page - 1) * PAGE_ITEMS : page * PAGE_ITEMS]
    rows = item_rows.rows_of(caches.items(dataset), _plain_ids(few))
    with grid:
        gallery(
            caches.cards(dataset, rows), name=name, key=key, on_click=choose_item, selected=selected
        )


def _page_of(n_items: int, n_pages: int, key: str) -> int:
    """Draw page numbers; the address holds the page, as long as it is of so many items."""
    if n_pages < 2:
        return 1
    wanted, _, of = (url_state.recall("grid") or "").partition("/")
    is_known = of == str(n_items) and wanted.isdecimal() and 1 <= int(wanted) <= n_pages
    widget = f"page of {key}"
    st.session_state[widget] = int(wanted) if is_known else 1

    def turned() -> None:
        url_state.remember("grid", f"{st.session_state[widget]}/{n_items}")

    st.pagination(n_pages, key=widget, on_change=turned)
    return int(st.session_state[widget])


def items_beside_neighbours(
    dataset: DataSet, view: View | None, ids: Sequence[str], *, key: str
) -> None:
    """Draw items, and beside them the neighbours of the one that is clicked."""
    selected = url_state.kept("item")
    grid, beside = st.columns(2, gap="large")
    with grid:
        if ids:
            item_pages(dataset, ids, name="Items", key=key, selected=selected)
        else:
            st.caption("None.")
    with beside:
        if selected is not None and view is not None:
            neighbours(view, selected)
        elif ids:
            st.info("Click an item to see its nearest neighbours.")


def selection_actions(
    view: View,
    ids: Sequence[str] | pa.ChunkedArray,
    *,
    origin: Mapping[str, Any],
    extra: pa.Table | None = None,
    key: str = "",
) -> None:
    """Offer to download items, and to keep them as a slice."""
    if not len(ids):
        return
    name = f"{view.dataset.name}-selection"

    def make(kind: str) -> bytes:
        return explore.exported(view, _plain_ids(ids), kind, extra)

    with st.popover("Export or keep these items", icon=":material/save:", key=f"export {key}"):
        st.download_button(
            "Download CSV (what is known of each item)",
            partial(make, "csv"),
            file_name=f"{name}.csv",
            mime="text/csv",
            key=f"csv {key}",
            on_click="ignore",
        )
        st.download_button(
            "Download Parquet (with vectors)",
            partial(make, "parquet"),
            file_name=f"{name}.parquet",
            mime="application/vnd.apache.parquet",
            key=f"parquet {key}",
            on_click="ignore",
        )
        with st.form(f"slice form {key}", border=False):
            wanted = st.text_input(
                "Slice name", placeholder="dark-pictures", key=f"slice name {key}"
            )
            is_new = not st.checkbox("Replace a slice of that name", key=f"replace {key}")
            if st.form_submit_button(f"Keep {len(ids):,} items as a slice"):
                try:
                    made = save_slice(
                        view.dataset.folder,
                        wanted,
                        _plain_ids(ids),
                        origin=origin,
                        overwrite=not is_new,
                    )
                except FeatureStoreError as error:
                    url_state.show(error)
                else:
                    st.success(f"Slice {made.name}: {len(made.item_ids):,} items. Use it with")
                    url_state.show_command(
                        view.dataset.store, "compare", view.dataset.name, "--slice", made.name
                    )


def train_panel(dataset: DataSet) -> None:
    """Offer to train a head, or to compare all, with progress."""
    specs = [str(view.spec) for view in dataset.views()]
    labels = dataset.label_columns
    if not specs or not labels:
        return
    with st.popover("Train or compare heads", icon=":material/model_training:"):
        label = st.selectbox("Label", labels, key="train label")
        task = Task(dataset.description.labels[label]["task"])
        spec = st.selectbox("Encoder", specs, format_func=encoder_label, key="train encoder")
        names = [*default_heads(task), "best"]
        head = st.selectbox("Head", names, key="train head")
        reviews = st.checkbox("Apply reviews to the training rows", key="train reviews")
        trains = st.button("Train this head")
        compares = st.button("Compare all heads on all encoders")
    if not (trains or compares):
        return
    bar = st.progress(0.0, "Reading the vectors…")

    def tell(n_done: int, n_fits: int, what: str) -> None:
        bar.progress(n_done / n_fits, wording.plain(f"{n_done} of {n_fits} fits: {what}"))

    if trains:
        fitted = heads.fit(
            dataset.view(spec), head, label=label, apply_reviews=reviews, progress=tell
        )
        url_state.remember("head", fitted.head_id)
        bar.empty()
        metric, found = next(iter(fitted.card["metrics"].items()))
        st.success(
            wording.plain(
                f"Trained {fitted.head_id}: {metric.replace('_', ' ')} {found['value']:.3f}"
            )
        )
        st.page_link("screens/one_head.py", label="See this head", icon=":material/fact_check:")
    else:
        run = heads.compare(dataset.views(), label=label, apply_reviews=reviews, progress=tell)
        url_state.remember("run", str(run.card["created"]))
        st.rerun()


def inspect_panel(dataset: DataSet) -> None:
    """Offer to look for issues, with progress."""
    specs = [str(view.spec) for view in dataset.views()]
    if not specs:
        return
    with st.popover("Look for issues", icon=":material/troubleshoot:"):
        spec = st.selectbox("Encoder", specs, format_func=encoder_label, key="inspect encoder")
        starts = st.button("Look now")
    if not starts:
        return
    bar = st.progress(0.0, "Reading the vectors…")

    def tell(n_done: int, n: int, what: str) -> None:
        bar.progress(n_done / max(1, n), f"{what}: {n_done:,} of {n:,}")

    found = heads.find_issues(dataset.view(spec), progress=tell)
    url_state.remember("report", str(found.card["created"]))
    st.rerun()


def _plain_ids(ids: Sequence[str] | pa.ChunkedArray) -> list[str]:
    return ids.to_pylist() if isinstance(ids, pa.ChunkedArray) else list(ids)


def wait_for_map(view: View) -> str:
    """Make the UMAP map beside the server, one at a time, and name the map to show meanwhile."""
    store, name, spec = view.dataset.store.path, view.dataset.name, str(view.spec)
    words = ("project", name, "-e", spec, "--method", "umap", "--store", str(store))
    running, key = jobs(), "\0".join(words)
    job = running.get(key)
    if job is None or (job.is_done and job.error is None and job.about != view.state):
        job = running[key] = Job(*words, about=view.state)
    if job.is_done:
        why = job.error or "it was made, but could not be kept: is the store read-only?"
        st.error(wording.plain(f"No UMAP map: {why}"), icon=":material/error:")
        st.button("Try again", on_click=_forget, args=(key,))
    else:
        _watch(job)
    return "pca"


def _forget(key: str) -> None:
    jobs().pop(key, None)
