"""Whether what comes in differs from what a head learned from."""

from datetime import UTC, datetime, timedelta

import streamlit as st

from dashboard import caches, start_runs, url_state
from dashboard.page_data import drift as shown
from dashboard.page_data import wording

MOST_PICTURES = 12
SPANS = {"7": "the last 7 days", "30": "the last 30 days", "all": "all of it"}

dataset = caches.dataset()
head = start_runs.choose_head(dataset)
left, right = st.columns([3, 1])
with left:
    folder = url_state.text("Folder of the log", key="log", placeholder="answers/")
with right:
    span = url_state.select("Look at", list(SPANS), key="span", show=SPANS.__getitem__)
if not folder:
    st.info("Let `predict` or `serve` keep a log of their answers, and name its folder here:")
    name = f"{dataset.name}/{head.head_id}"
    url_state.show_command(dataset.store, "predict", name, "NEW", "--log-to", "answers/")
    st.stop()
since = None if span == "all" else datetime.now(UTC) - timedelta(days=int(span))
found, why = shown.found_in(folder, head, dataset, since)
verdict, *lines = found.sentences()
say = st.warning if found.is_drift else st.success if found.is_enough else st.info
say(wording.plain(verdict))
nested = ("    - " if line.startswith("    ") else "- " for line in lines)
st.markdown(
    "\n".join(a + wording.plain(line.strip()) for a, line in zip(nested, lines, strict=True))
)
if why:
    st.caption(wording.plain(f"Vectors are not compared: {why}."))
if found.days:
    st.plotly_chart(shown.days_figure(found), alt="Items a day, and how many are unlike")
if found.items:
    st.subheader("Farthest out")
    columns = st.columns(6)
    for n, (one, picture) in enumerate(shown.pictures(found.items[:MOST_PICTURES])):
        caption = wording.plain(f"{one.item_id} · {one.predicted}")
        columns[n % len(columns)].image(picture, caption=caption)
    st.dataframe(
        shown.rows(found),
        hide_index=True,
        column_config={
            "farther out than (% of training)": st.column_config.NumberColumn(format="%.1f")
        },
    )
    st.markdown(
        "If more items of this kind will come, embed them with the training items, label some, and "
        "train again. Which to label first:"
    )
    url_state.show_command(dataset.store, "suggest", dataset.name, "-o", "todo.csv")
