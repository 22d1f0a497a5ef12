"""Workers on a real Ray cluster of three nodes, which die; it needs Ray and a network namespace.

20 runs by hand: ``python -m tools.worker_kills 20``.
"""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from featurestore.sources.listing import SourceOptions
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.store.store import open_store
from featurestore.upkeep.verify import verify
from tools.ray_nodes import has_namespaces

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def ray_is_here():
    """Skip where there is no Ray or no namespace; fail where CI requires it."""
    reason = None
    if importlib.util.find_spec("ray") is None:
        reason = "Ray is not installed: pip install 'featurestore[ray]'"
    elif not has_namespaces():
        reason = "no network namespace may be made here, and Ray listens on all addresses"
    if reason is not None:
        if os.environ.get("FEATURESTORE_REQUIRE_RAY") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def alone(*words):
    """Run a module of this project on the loopback of a namespace."""
    done = subprocess.run(
        ["timeout", "-k", "5", "600", sys.executable, "-m", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_pipeline_of_the_docs_ends_as_embed_does(tmp_path):
    """Ten lines of docs/scale.md, on a table with an empty text; their data set beside embed's."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    rows = [f"{n},text {n % 9} of many,{'ab'[n % 2]}" for n in range(40)]
    (tmp_path / "reviews.csv").write_text("\n".join(["item_id,text,label", *rows, "40,,a"]) + "\n")
    script = f"""
import os, ray
os.chdir({str(tmp_path)!r})
from tools.ray_nodes import cluster
with cluster(2) as made:
    ray.init(made.address, log_to_driver=False)
{textwrap.indent(code, "    ")}
    ray.shutdown()
"""
    (tmp_path / "pipeline.py").write_text(script)
    code, out, err = alone("tools.ray_nodes", sys.executable, str(tmp_path / "pipeline.py"))
    assert code == 0, out + err[-4000:]
    store = open_store(str(tmp_path / "store"))
    store.embed(
        [tmp_path / "reviews.csv"], dataset="one", encoders=["builtin:tiny-text"],
        source_options=SourceOptions(text="text", id="item_id", label=("label",)),
    )  # fmt: skip
    mine, theirs = (store.dataset(name) for name in ("reviews", "one"))
    columns = ["item_id", "text", "label", "content_hash"]
    items = [
        {one.pop("item_id"): one for one in data.items(columns).to_pylist()}
        for data in (mine, theirs)
    ]
    assert {**items[0], "40": {}} == {**items[1], "40": {}}
    assert mine.label_columns == theirs.label_columns == ["label"]
    loaded = [one.view("builtin:tiny-text").load() for one in (mine, theirs)]
    order = [np.argsort(one.ids) for one in loaded]
    assert loaded[0].ids[order[0]].tolist() == loaded[1].ids[order[1]].tolist()
    np.testing.assert_allclose(loaded[0].vectors[order[0]], loaded[1].vectors[order[1]], atol=1e-5)
    assert mine.failures()["item_id"].to_pylist() == ["40"]
    assert [one for one in verify(DatasetFolder(mine.path)) if one.severity == "error"] == []


def test_runs_in_which_workers_nodes_and_drivers_are_killed():
    """Three where CI requires Ray (75 s), else one."""
    n = 3 if os.environ.get("FEATURESTORE_REQUIRE_RAY") == "1" else 1
    code, out, err = alone("tools.worker_kills", str(n), "--seed", "7")
    assert code == 0, out + err[-4000:]
    assert out.count("as it should be") == n
    assert f"{n} runs, 0 findings" in out
