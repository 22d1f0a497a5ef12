"""How many labels are enough: stored learning curves."""

import streamlit as st

from dashboard import caches, jobs, url_state, widgets
from dashboard.page_data import transfer as shown
from dashboard.page_data import wording
from featurestore.terms.specs import encoder_label

dataset = caches.dataset()
jobs.offer(dataset, "curve", is_first=not caches.curves(dataset))
found = widgets.choose_run(
    dataset, caches.curves(dataset), "Learning curve", key="curve", show=shown.curve_title,
    none="No learning curve of this data set yet. Draw one with the button above, or type:",
    words=("curve", dataset.name),
)  # fmt: skip
name = found.metric.replace("_", " ")
st.plotly_chart(shown.curve_figure(found), alt=f"{name} over the number of labels")
if shown.scale_of(found) == 100:
    target = url_state.slider(f"Wanted {name} (%)", 50.0, 99.5, 0.5, key="target", default=90.0)
    for encoder in found.encoders:
        needed = found.labels_needed(encoder, target / 100)
        st.markdown(f"- **{wording.plain(encoder_label(encoder))}**: {wording.plain(needed)}.")
for note in found.notes:
    st.caption(wording.plain(note))
