"""Heads in MLflow: what a run was and how well it does, and a model that MLflow serves."""

from __future__ import annotations

import os
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from featurestore.errors import BadName, MissingExtra
from featurestore.terms.specs import Modality
from heads.labels.metadata import NUMBER
from heads.saved.frames import column_of
from heads.saved.serve import modality_of

if TYPE_CHECKING:
    from heads.saved.bundle import FittedHead

LOADER = "heads.saved.mlflow_loader"
_MOST_LETTERS = 500  # of a parameter, as MLflow's stores allow


def log_to_mlflow(
    head: FittedHead,
    uri: str | None = None,
    *,
    experiment: str = "featurestore",
    report: str | Path | None = None,
) -> str:
    """Write a trained head into MLflow as a run, and return the run's id.

    The run has parameters (head, encoder, label, what was chosen), each metric with the ends of
    its 95 % interval (``accuracy``, ``accuracy_low``, ``accuracy_high``), tags (data set,
    snapshot, fingerprint of the encoder, head id) and artifacts: the model of `to_mlflow` under
    ``model``, and a report. Nothing is sent anywhere but to ``uri``.

    Parameters
    ----------
    head : FittedHead
    uri : str, optional
        A tracking server or database, such as ``sqlite:///mlflow.db``; by default MLflow's own
        choice (``MLFLOW_TRACKING_URI``).
    experiment : str
        It is made where it is not there.
    report : path, optional
        A file to keep with the run, such as that of `heads.report`.

    Raises
    ------
    MissingExtra
        If MLflow is not installed.
    BadName
        If MLflow cannot write there.
    """
    mlflow = _mlflow()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        where = found.experiment_id if found else client.create_experiment(experiment)
        run = client.create_run(where, run_name=head.head_id, tags=_tags(head)).info.run_id
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise BadName(f"MLflow cannot write to {uri or 'its default place'}: {error}") from None
    is_whole = False
    try:
        for name, value in _parameters(head).items():
            client.log_param(run, name, value)
        for name, number in _metrics(head).items():
            client.log_metric(run, name, number)
        with TemporaryDirectory() as folder:
            client.log_artifacts(run, str(to_mlflow(head, Path(folder) / "model")), "model")
        if report is not None:
            client.log_artifact(run, str(report))
        is_whole = True
    finally:
        client.set_terminated(run, "FINISHED" if is_whole else "FAILED")
    return str(run)


def to_mlflow(head: FittedHead, folder: str | Path) -> Path:
    """Write a head as a model of MLflow's pyfunc flavour, and return its folder.

    The model is the bundle, read by `heads.saved.mlflow_loader`: no pickle. A frame with one
    column goes in, texts or files of pictures (bytes; paths are refused, since who asks a server
    must not read its disk), and those that the head reads beside it; the columns of `featurestore
    predict` come out.

    Raises
    ------
    MissingExtra
        If MLflow is not installed.
    FileExistsError
        If the folder is there.
    """
    mlflow = _mlflow()
    if (target := Path(folder)).exists():
        raise FileExistsError(f"{target} is there: name another folder")
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    kind = "string" if modality_of(head) is Modality.TEXT else "binary"
    beside = head.card.metadata_columns
    columns = [
        ColSpec("double" if one.kind == NUMBER else "string", one.name, required=False)
        for one in (beside.columns if beside else ())
    ]
    inputs = Schema([ColSpec(kind, column_of(head)), *columns])
    with TemporaryDirectory() as temporary:
        bundle = head.save(Path(temporary) / "bundle")
        mlflow.pyfunc.save_model(
            str(target),
            loader_module=LOADER,
            data_path=str(bundle),
            signature=ModelSignature(inputs=inputs),
            pip_requirements=_requirements(head),
            metadata={"head_id": head.head_id, "fingerprint": head.card.fingerprint},
        )
    return target


def _mlflow() -> Any:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):  # it reads them when it is imported
        os.environ.setdefault(name, "true")
    try:
        with warnings.catch_warnings():  # it warns of type hints of its own
            warnings.simplefilter("ignore", UserWarning)
            import mlflow
            import mlflow.pyfunc
    except ImportError:
        raise MissingExtra("MLflow is not installed: pip install 'featurestore[mlflow]'") from None
    return mlflow


def _parameters(head: FittedHead) -> dict[str, str]:
    card = head.card
    said = {
        "head": card.head, "encoder": card.encoder, "label": card.label, "task": str(card.task),
        "estimand": card.estimand, "seed": card.seed, "n_items": card.n_items,
    }  # fmt: skip
    said |= {f"chosen.{name}": value for name, value in card.chosen.items()}
    return {name: str(value)[:_MOST_LETTERS] for name, value in said.items()}


def _metrics(head: FittedHead) -> dict[str, float]:
    found: dict[str, float] = {"seconds_a_fit": head.card.seconds.one_fit}
    for name, one in head.card.metrics.items():
        ends = {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        found |= {key: value for key, value in ends.items() if value is not None}
    return {name: value for name, value in found.items() if value == value}  # an undefined score


def _tags(head: FittedHead) -> dict[str, str]:
    card = head.card
    said = {
        "dataset": card.dataset, "slice": card.slice, "snapshot": card.snapshot,
        "fingerprint": card.fingerprint, "head_id": card.head_id, "created": card.created,
        "version": version("featurestore"),
    }  # fmt: skip
    return {f"featurestore.{name}": str(value) for name, value in said.items() if value}


def _requirements(head: FittedHead) -> list[str]:
    found = [f"featurestore=={version('featurestore')}"]
    for name, number in head.card.versions.items():
        try:
            version(name)
        except PackageNotFoundError:  # Python itself, or a system's part
            continue
        found.append(f"{name}=={number}")
    return list(dict.fromkeys(found))
