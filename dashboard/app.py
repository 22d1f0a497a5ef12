"""The dashboard: navigation and what all pages share. Started by `dashboard.launch`."""

from pathlib import Path

import streamlit as st

from dashboard import caches, jobs, url_state
from dashboard.page_data.wording import plain
from featurestore.errors import FeatureStoreError

# A file of ours: Streamlit fetches named icons for the tab from the network.
ICON = Path(__file__).with_name("static") / "icon.png"
st.set_page_config(page_icon=str(ICON), layout="wide")  # before the pages and their icons
# Not in pages/: next to a folder of that name, Streamlit runs the page of a server's first
# link alone, without this file (PagesManager.uses_pages_directory, 1.67).
page = st.navigation(
    [
        st.Page("screens/overview.py", title="Home", icon=":material/home:", default=True),
        st.Page("screens/explore.py", title="Explore", icon=":material/scatter_plot:"),
        st.Page("screens/search.py", title="Search", icon=":material/search:"),
        st.Page("screens/label.py", title="Label", icon=":material/label:"),
        st.Page("screens/heads.py", title="Leaderboard", icon=":material/leaderboard:"),
        st.Page("screens/one_head.py", title="One head", icon=":material/fact_check:"),
        st.Page("screens/try_it.py", title="Try it", icon=":material/upload:"),
        st.Page("screens/drift.py", title="Drift", icon=":material/trending_up:"),
        st.Page("screens/compare.py", title="Compare two", icon=":material/compare_arrows:"),
        st.Page("screens/quality.py", title="Quality", icon=":material/rule:"),
        st.Page("screens/transfer.py", title="Transfer", icon=":material/balance:"),
        st.Page("screens/curves.py", title="Labels needed", icon=":material/show_chart:"),
        st.Page("screens/run.py", title="Run", icon=":material/play_arrow:"),
    ],
    expanded=True,  # of more than twelve pages Streamlit hides some
)
st.set_page_config(page_title=f"{page.title} · featurestore")
st.html(Path(__file__).with_name("static") / "page.css")
st.title(page.title)
try:
    store = caches.store()
    names = store.datasets()
    if not names:
        st.info("This store has no data sets yet. Embed a folder of images or a table of texts:")
        url_state.show_command(store, "embed", "SOURCE", "--dataset", "NAME", "-e", "ENCODER")
        st.stop()
    with st.sidebar:
        url_state.select("Data set", names, key="dataset", clears=url_state.CLEARED)
        st.caption(plain(str(store.path)))
        jobs.draw_in_sidebar(store)
    page.run()
except FeatureStoreError as error:
    url_state.show(error)
