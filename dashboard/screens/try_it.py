"""Ask a trained head about pictures or texts of your own."""

import streamlit as st

from dashboard import caches, start_runs, url_state, widgets
from dashboard.gallery import gallery
from dashboard.page_data import item_rows, trying, wording
from featurestore.errors import FeatureStoreError
from featurestore.terms.specs import Modality
from heads.saved.serve import modality_of

MOST_CARDS = 12
PICTURES = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"]
TABLES = ["csv", "tsv", "jsonl", "parquet"]

dataset = caches.dataset()
head = start_runs.choose_head(dataset)
named, table = {}, None
if modality_of(head) == Modality.IMAGE:
    files = st.file_uploader(
        "Drop pictures here", type=PICTURES, accept_multiple_files=True, max_upload_size=20
    )
    named = trying.named_apart([(one.name, one.getvalue()) for one in files or ()])
else:
    left, right = st.columns(2)
    typed = left.text_area(
        "Texts, one a line",
        key="texts to try",
        placeholder="\n".join(trying.example_texts(dataset)),
    )
    named = trying.texts_in(typed)
    table = right.file_uploader("Or a table of texts", type=TABLES, max_upload_size=20)
st.caption("What you bring stays on this machine, and is not stored.")

views = dataset.views()
view = trying.view_of(head, views)


def offer_files(csv: bytes) -> None:
    """Offer predictions and bundle as files."""
    st.download_button(
        "Download predictions (CSV)", csv, f"{dataset.name}-predictions.csv", "text/csv",
        on_click="ignore", icon=":material/download:",
    )  # fmt: skip


def draw_answer(tried: trying.Tried, i: int) -> None:
    """Draw what the head says of one item, beside it."""
    answers, content = tried.answers, tried.contents[i]
    about, near = st.columns(2, gap="large")
    with about:
        picture, said = st.columns([1, 2])
        if isinstance(content, bytes):
            picture.image(content, width="stretch")
        else:
            picture.markdown(wording.plain(content))
        row = trying.rows(answers)[i]
        with said:
            st.markdown(f"#### {wording.plain(str(row['prediction']))}")
            for name, p in trying.most_probable(answers, i):
                st.progress(min(1.0, p), wording.plain(f"{name} {p:.1%}"))
            if "set" in row:
                st.markdown(wording.plain(f"Prediction set: {row['set'] or 'empty'}"))
            if "from" in row:
                st.markdown(f"Interval: {row['from']:.4g} to {row['to']:.4g}")
            if sentence := trying.unlike_sentence(answers, i):
                is_unlike = answers.unlike is not None and answers.unlike.is_unlike[i]
                (st.warning if is_unlike else st.caption)(wording.plain(sentence))
    with near:
        if view is None or tried.vectors is None:
            return
        st.caption("Nearest training items · cosine, 1 is closest")
        condition = trying.taught(head)
        among = caches.matching(view.now(), condition) if condition else None
        found = caches.index(view.now()).search(tried.vectors[i : i + 1], k=6, among=among)
        rows = item_rows.rows_of(caches.items(dataset), found.ids[0].tolist())
        gallery(
            caches.cards(dataset, rows, found.scores[0].tolist()), name="Nearest training items",
            key=f"near {i}", on_click=widgets.choose_item,
        )  # fmt: skip


try:
    if table is not None:
        found = trying.try_table(head, table.name, table.getvalue())
        st.markdown(f"**{len(found):,} rows**")
        offer_files(trying.csv_of(found))
        st.dataframe(found.slice(0, 1000), hide_index=True)
        if len(found) > 1000:
            st.caption("The first 1,000; the file has all.")
    elif named:
        with st.spinner("Asking the head…"):
            tried = trying.try_items(head, views, named, caches.encode_items)
        for name, why in tried.failed.items():
            st.warning(wording.plain(f"{name}: {why}"))
        if unknown := tried.answers.cannot_tell:
            st.caption(wording.plain(f"{unknown[0].upper()}{unknown[1:]}."))
        offer_files(trying.csv_of(tried.answers.to_arrow()))
        if len(tried.contents) > 1:
            st.dataframe(
                trying.rows(tried.answers),
                hide_index=True,
                column_config={
                    "confidence": st.column_config.NumberColumn("Confidence (%)", format="%.1f"),
                    "unlike training": st.column_config.NumberColumn(
                        "Farther out than (% of training)", format="%.1f"
                    ),
                },
            )
        for i in range(min(len(tried.contents), MOST_CARDS)):
            with st.container(border=True):
                draw_answer(tried, i)
        if len(tried.contents) > MOST_CARDS:
            st.caption(f"The first {MOST_CARDS} of {len(tried.contents):,}; the table has all.")
except FeatureStoreError as error:
    url_state.show(error)

with st.popover("Take this head with you", icon=":material/inventory_2:"):
    st.download_button(
        "Download the bundle (zip)", lambda: trying.bundle_of(head), f"{head.head_id}.zip",
        "application/zip", on_click="ignore", icon=":material/download:",
    )  # fmt: skip
    st.caption("Unpack it, and on the command line, wherever its encoder is:")
    st.code(wording.line_of(["predict", f"{head.head_id}/", "NEW", "-o", "predictions.csv"]))
    st.caption("In Python:")
    st.code(f'heads.load_bundle("{head.head_id}").predict(["new.jpg"])', language="python")
