"""Heads in a real MLflow: a database on this disk, and its own server on loopback."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import heads
from featurestore.cli import run
from featurestore.errors import BadName, BadSource
from featurestore.pipeline.options import EmbedOptions
from featurestore.store.store import open_store
from heads.saved.on_mlflow import _mlflow

if find_spec("mlflow") is None:
    pytest.skip("the extra mlflow is not installed", allow_module_level=True)
mlflow = _mlflow()  # as the product imports it: nothing is counted for its makers
from mlflow.telemetry import get_telemetry_client  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of each other
PIXELS = "baseline:pixels#size=4"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty pictures of two classes in a store, and a head on them."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("mlflow")
    drawn = np.random.default_rng(0)
    for number in range(40):
        kind = number % 2
        pixels = drawn.integers(0, 100, (16, 16, 3)) + 120 * kind
        path = folder / "photos" / ("dark", "light")[kind] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    store = open_store(folder / "store", create=True)
    store.embed(
        [folder / "photos"], dataset="photos", encoders=[PIXELS], embed_options=EmbedOptions()
    )
    return folder, heads.fit(store.view("photos", PIXELS), "ridge")


@pytest.fixture(autouse=True)
def here(photos, monkeypatch):
    """MLflow keeps artifacts beside where it runs."""
    monkeypatch.chdir(photos[0])


def test_a_run_has_the_figures_of_the_card_and_a_model_that_answers_as_the_head(photos):
    folder, head = photos
    uri = f"sqlite:///{folder}/one.db"
    (folder / "report.html").write_text("<p>found</p>")
    run_id = heads.log_to_mlflow(head, uri, experiment="steel", report=folder / "report.html")
    client = mlflow.MlflowClient(tracking_uri=uri)
    kept = client.get_run(run_id)
    assert kept.info.status == "FINISHED"
    assert client.get_experiment(kept.info.experiment_id).name == "steel"
    assert kept.data.params["head"] == "ridge"
    assert kept.data.params["encoder"] == head.card.encoder
    for name, one in head.card.metrics.items():
        shown = [kept.data.metrics.get(key) for key in (name, f"{name}_low", f"{name}_high")]
        assert shown == [one.value, one.low, one.high]
    assert kept.data.tags["featurestore.fingerprint"] == head.card.fingerprint
    assert kept.data.tags["featurestore.snapshot"] == str(head.card.snapshot)
    assert {one.path for one in client.list_artifacts(run_id)} == {"model", "report.html"}

    local = Path(client.download_artifacts(run_id, "model"))
    assert "loader_module: heads.saved.mlflow_loader" in (local / "MLmodel").read_text()
    assert [one for one in local.rglob("*") if one.suffix in (".pkl", ".pickle", ".joblib")] == []
    model = mlflow.pyfunc.load_model(str(local))
    files = sorted((folder / "photos").rglob("*.png"))
    answers = model.predict(pd.DataFrame({"image": [one.read_bytes() for one in files]}))
    assert answers["predicted"].tolist() == head.predict(files).tolist()
    loader = model._model_impl  # what MLflow asks, without the check of its signature
    with pytest.raises(BadSource, match="a server reads no paths"):
        loader.predict(pd.DataFrame({"image": [str(files[0])]}))
    with pytest.raises(FileExistsError, match="is there"):
        head.to_mlflow(local)


def test_the_command_logs_what_it_trained_and_mlflow_serves_it(photos, capsys):
    folder, head = photos
    uri = f"sqlite:///{folder}/one.db"
    words = ["train", "photos", "--head", "ridge", "--store", str(folder / "store")]
    assert run([*words, "--mlflow", uri]) == 0
    assert "with the model under `model`" in capsys.readouterr().err
    client = mlflow.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("featurestore").experiment_id])
    report = client.download_artifacts(found.info.run_id, "report.html")
    assert "photos" in Path(report).read_text(encoding="utf-8")
    model = client.download_artifacts(found.info.run_id, "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "-h", "127.0.0.1",
         "-p", str(port), "--env-manager", "local"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    try:
        file = folder / "photos" / "dark" / "0.png"
        rows = {"columns": ["image"], "data": [[base64.b64encode(file.read_bytes()).decode()]]}
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"dataframe_split": rows}).encode(),
            {"Content-Type": "application/json"},
        )
        (answer,) = answered(asked, server)["predictions"]
    finally:
        server.terminate()
        server.wait(30)
    assert answer["predicted"] == head.predict([file])[0] == "dark"


def answered(asked, server):
    """Ask until the server is there."""
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(asked) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None
        except OSError:
            time.sleep(0.2)
    server.kill()
    raise AssertionError(server.communicate()[0].decode()[-3000:])


def test_a_place_that_cannot_be_written_to_is_said(photos):
    with pytest.raises(BadName, match="MLflow cannot write to nowhere://"):
        heads.log_to_mlflow(photos[1], "nowhere://here")


def test_nothing_is_sent_anywhere(photos, monkeypatch):
    asked = []

    def refuse(*address):
        asked.append(address)
        raise OSError("no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    heads.log_to_mlflow(photos[1], f"sqlite:///{photos[0]}/one.db")
    assert get_telemetry_client() is None
    assert asked == []
