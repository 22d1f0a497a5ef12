"""dashboard, demo: what is started rather than asked."""

from __future__ import annotations

from pathlib import Path

import click

from featurestore.cli.layout import command
from featurestore.cli.options import open_given, store_option, trust_option
from featurestore.cli.printing import tell
from featurestore.cli.watching import progress_bar
from featurestore.storage import stopping


@command(epilog="Example: featurestore dashboard --port 8501")
@click.option("--host", default="localhost", show_default=True, help="Who may connect.")
@click.option("--port", default=8501, show_default=True, help="Of the page.")
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@trust_option
@store_option
def dashboard(host: str, port: int, no_browser: bool, trust: bool, store_path: str) -> int:
    """Browse data sets, heads and neighbors in the browser."""
    from dashboard.launch import launch

    path = open_given(store_path).path
    stopping.leave_to_others()  # Streamlit stops by itself, and the jobs beside it
    return launch(path, host=host, port=port, open_browser=not no_browser, trust=trust)


@command(epilog="Example: featurestore demo --store /tmp/demo-store")
@click.option(
    "--store",
    "store_path",
    default="featurestore-demo",
    show_default=True,
    metavar="PATH",
    help="Folder of the store to make.",
)
def demo(store_path: str) -> None:
    """Run the main job on data that the packages bring: no network needed."""
    import heads
    from featurestore.demo.run import run_demo

    run_demo(
        Path(store_path), compare=heads.compare, assess=heads.assess_transfer, say=tell,
        progress_bar=progress_bar,
    )  # fmt: skip
