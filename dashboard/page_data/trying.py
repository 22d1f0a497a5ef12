"""What a head says of pictures or texts that a visitor brings, item by item."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dashboard.page_data.wording import Row
from featurestore.errors import FeatureStoreError
from featurestore.sources.listing import SourceOptions
from featurestore.store.dataset import DataSet
from featurestore.store.view import View
from featurestore.terms.labels import SEPARATOR
from heads.saved.answers import Answers
from heads.saved.beside import numbers_of
from heads.saved.bundle import FittedHead
from heads.saved.serve import answer, as_read, encoded, predict_rows

MOST_PROBABLE = 5  # classes that an item's card names
Encode = Callable[[View, Sequence[str | bytes]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Tried:
    """What a head says of n items, and what could not be read."""

    answers: Answers  # of those that could be read
    contents: list[str | bytes]  # of the same
    vectors: NDArray[np.float32] | None = None  # (n, dim), of the head's first encoder
    failed: Mapping[str, str] = field(default_factory=dict)  # name → reason


def try_items(
    head: FittedHead, views: Sequence[View], named: Mapping[str, str | bytes], encode: Encode
) -> Tried:
    """Ask a head about texts or the bytes of pictures, by name.

    Parameters
    ----------
    views : sequence of View
        Of the data set: where they have the head's encoders, these encode, and stay loaded.
    encode : callable
        Encodes contents by a view: an argument, so that pages can keep the encoder.
    """
    if not named:
        return Tried(answer(head, np.empty(0, dtype=object), np.empty((0, 0))), [])
    numbers_of(head, None, len(named))  # columns cannot be given here: says what can be done
    own = {view.fingerprint: view for view in views}
    blocks = [own.get(str(block["fingerprint"])) for block in head.blocks]

    def read(contents: Sequence[str | bytes]) -> tuple[Any, NDArray[np.float32] | None]:
        if head.card.reads in ("texts", "tap") or not blocks or None in blocks:
            return encoded(head, contents), None
        vectors = [encode(view, contents) for view in blocks if view is not None]
        return as_read(head, vectors, [str(one) for one in contents]), vectors[0]

    kept, failed = dict(named), {}
    try:
        inputs, vectors = read(list(kept.values()))
    except FeatureStoreError:  # one of them cannot be read: which?
        for name, content in named.items():
            try:
                read([content])
            except FeatureStoreError as error:
                failed[name] = str(error)
                del kept[name]
        if not kept:
            raise
        inputs, vectors = read(list(kept.values()))
    said = answer(head, np.array(list(kept), dtype=object), inputs)
    return Tried(said, list(kept.values()), vectors, failed)


def view_of(head: FittedHead, views: Sequence[View]) -> View | None:
    """Return the view of a head's first encoder, in which neighbors are looked for."""
    first = next(iter(head.blocks), None)
    return next((v for v in views if first and v.fingerprint == first["fingerprint"]), None)


def taught(head: FittedHead) -> str:
    """Return the SQL condition that a head's training items fulfill; "" where all are."""
    return "split = 'train'" if head.card.evaluation.on == "test" else ""


def rows(answers: Answers) -> list[Row]:
    """Return a row for each item: what the head says, how sure it is; shares in percent."""
    unlike = answers.unlike
    return [
        {
            "item": str(answers.ids[i]),
            "prediction": _said(answers.predicted[i]),
            **({} if answers.confidence is None
               else {"confidence": 100 * float(answers.confidence[i])}),
            **({} if answers.in_set is None else {"set": ", ".join(set_of(answers, i))}),
            **({} if answers.interval is None
               else {"from": float(answers.interval[i][0]), "to": float(answers.interval[i][1])}),
            **({} if unlike is None else {"unlike training": 100 * float(unlike.shares[i])}),
        }
        for i in range(len(answers.ids))
    ]  # fmt: skip


def _said(one: object) -> object:
    return SEPARATOR.join(one) if isinstance(one, list) else one


def set_of(answers: Answers, i: int) -> list[str]:
    """Return the classes of an item's prediction set, the most probable first."""
    assert answers.in_set is not None, "the caller has looked"
    order = np.arange(len(answers.classes))
    if answers.probabilities is not None:
        order = np.argsort(-answers.probabilities[i], kind="stable")
    return [answers.classes[c] for c in order if answers.in_set[i][c]]


def most_probable(answers: Answers, i: int) -> list[tuple[str, float]]:
    """Return the most probable classes of an item with their probabilities."""
    if answers.probabilities is None:
        return []
    order = np.argsort(-answers.probabilities[i], kind="stable")[:MOST_PROBABLE]
    return [(answers.classes[c], float(answers.probabilities[i][c])) for c in order]


def unlike_sentence(answers: Answers, i: int) -> str | None:
    """Say how far out an item lies, among the training items; None where nobody knows."""
    if answers.unlike is None:
        return None
    share = float(answers.unlike.shares[i])
    said = f"It lies farther out than {share:.0%} of the training items"
    if answers.unlike.is_unlike[i]:
        return (
            f"Unlike anything seen in training: {said[0].lower()}{said[1:]}. Look at it yourself."
        )
    return f"{said}: nothing unusual."


def try_table(head: FittedHead, name: str, content: bytes) -> pa.Table:
    """Ask a head about the rows of a table of texts; its columns come back with the answers.

    Raises
    ------
    BadSource, MissingColumn
        If it is not such a table.
    """
    with tempfile.TemporaryDirectory(prefix="featurestore-try-") as folder:
        path = Path(folder) / (Path(name).name or "table.csv")
        path.write_bytes(content)
        return predict_rows(head, path, options=SourceOptions()).to_arrow()


def csv_of(table: pa.Table) -> bytes:
    """Write predictions as CSV; several labels as a|b."""
    from pyarrow import csv

    columns = [
        pa.array([_said(one) for one in column.to_pylist()])
        if pa.types.is_nested(column.type)
        else column
        for column in table.columns
    ]
    sink = io.BytesIO()
    csv.write_csv(pa.table(columns, names=table.column_names), sink)
    return sink.getvalue()


def bundle_of(head: FittedHead) -> bytes:
    """Return a head's bundle as a zip archive, for `featurestore predict`."""
    sink = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="featurestore-bundle-") as folder:
        target = Path(folder) / head.head_id
        head.save(target)
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(target.iterdir()):
                archive.write(path, f"{head.head_id}/{path.name}")
    return sink.getvalue()


def texts_in(typed: str) -> dict[str, str | bytes]:
    """Return the lines of a text box, each a text, by number."""
    lines = [line.strip() for line in typed.splitlines() if line.strip()]
    return {f"text {number}": line for number, line in enumerate(lines, 1)}


def named_apart(files: Sequence[tuple[str, bytes]]) -> dict[str, str | bytes]:
    """Return files by name; of equal names, later ones have a number behind."""
    found: dict[str, str | bytes] = {}
    for name, content in files:
        free, number = name, 2
        while free in found:
            free, number = f"{name} ({number})", number + 1
        found[free] = content
    return found


def example_texts(dataset: DataSet, n: int = 3) -> list[str]:
    """Return some texts of a data set, to try a head on at once."""
    table = dataset.items(["item_id", "text"]).sort_by("item_id")
    step = max(1, len(table) // n)
    return [str(one) for one in table.column("text").to_pylist()[::step][:n] if one]
