"""What can be run from here, what runs, and what has ended: beside the server, tab open or not."""

import streamlit as st

from dashboard import caches, jobs
from dashboard.page_data import jobs as known
from dashboard.page_data.runnable import RUNNABLE

dataset = caches.dataset()
st.caption(
    "Each of these is a process of its own: it goes on when you close this page or end the "
    "dashboard, and the same work never runs twice at once."
)
for row in range(0, len(RUNNABLE), 4):
    columns = st.columns(4)
    for column, one in zip(columns, list(RUNNABLE.values())[row : row + 4], strict=False):
        with column.container(border=True, height="stretch"):
            st.caption(one.about)
            jobs.offer(dataset, one.command)

ended = [job for job in known.jobs(str(dataset.store.path)) if not job.is_running]
st.subheader("What has ended")
if not ended:
    st.caption("Nothing was started from the dashboard yet.")
for job in ended:
    jobs.draw_ended(job, key=job.folder.name)
