"""Predict for the rows of a data frame: pandas or Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pyarrow as pa

from featurestore.encoders.images import decode_image
from featurestore.errors import BadSource, MissingColumn, Undecodable, nearest
from featurestore.sources.written import InputRows
from featurestore.terms.specs import Modality
from heads.saved.answered import AnsweredRows
from heads.saved.beside import columns_of, numbers_of
from heads.saved.raw_items import content_of
from heads.saved.serve import answer, encoded, modality_of

if TYPE_CHECKING:
    from heads.saved.bundle import FittedHead


class FrameOptions(TypedDict, total=False):
    """Keywords of `predict_frame`."""

    column: str | None
    encoder: str | None
    least_confidence: float


def predict_frame(
    head: FittedHead,
    frame: Any,
    *,
    column: str | None = None,
    encoder: str | None = None,
    least_confidence: float = 0.0,
) -> Any:
    """Return a frame of the same kind with the columns of `featurestore predict` behind its own.

    Rows keep their order, and their index where they have one.

    Parameters
    ----------
    frame : pandas.DataFrame or pyarrow.Table
    column : str, optional
        That of texts or pictures; default what the training table called it.
    encoder, least_confidence
        As in `heads.saved.serve.predict_items`.

    Raises
    ------
    MissingColumn
        If there is no such column.
    BadSource
        If it is no data frame.
    """
    names = _names(frame)
    items = list(_values(frame, _column(head, names, column)))
    contents, failed = _readable(items, modality_of(head))
    ids = np.empty(len(contents), dtype=object)
    ids[:] = [str(at) for at in contents]
    if contents:
        at = list(contents)
        given = {one: _values(frame, one) for one in columns_of(head) if one in names}
        some = {one: [values[row] for row in at] for one, values in given.items()}
        beside, _ = numbers_of(head, some or None, len(at))
        inputs = encoded(head, list(contents.values()), encoder, beside)
        answers = answer(head, ids, inputs, least_confidence)
    else:
        answers = answer(head, ids, [])
    rows = InputRows(
        pa.array([str(at) for at in range(len(items))], pa.string()),
        pa.table({name: pa.nulls(len(items)) for name in names}),
        id_column="",  # rows are told by their place in the frame
    )
    return _beside(frame, AnsweredRows(rows, answers, failed).ours())


def column_of(head: FittedHead) -> str:
    """Return what the training table called the column of its items; else text or image."""
    flag = "text" if modality_of(head) is Modality.TEXT else "image"
    return (head.card.columns or {}).get(flag) or flag


def _names(frame: Any) -> list[str]:
    package = type(frame).__module__.partition(".")[0]
    is_pandas = package == "pandas" and hasattr(frame, "assign")  # not a Series
    if not (is_pandas or isinstance(frame, pa.Table)):
        kind = f"{package}.{type(frame).__name__}"
        raise BadSource(f"expected a pandas.DataFrame or a pyarrow.Table, got a {kind}")
    return [str(name) for name in (frame.columns if is_pandas else frame.column_names)]


def _column(head: FittedHead, names: Sequence[str], column: str | None) -> str:
    flag = "text" if modality_of(head) is Modality.TEXT else "image"
    name = column or (head.card.columns or {}).get(flag)
    if name is None:
        raise MissingColumn(f"say which column holds {flag}s: column=… of {', '.join(names)}")
    if name not in names:
        raise MissingColumn(f"the frame has no column {name!r}: {nearest(name, names)}")
    return name


def _values(frame: Any, name: str) -> Any:
    column = frame[name]
    return column.to_pylist() if hasattr(column, "to_pylist") else column.to_list()


def _readable(
    items: Sequence[Any], modality: Modality
) -> tuple[dict[int, str | bytes], dict[str, str]]:
    """Return contents by row, and why the other rows have none."""
    contents: dict[int, str | bytes] = {}
    failed: dict[str, str] = {}
    for at, item in enumerate(items):
        if item is None or item != item or (isinstance(item, str) and not item.strip()):
            failed[str(at)] = f"no {modality}"
            continue
        try:
            content = content_of(item, modality, at)
            if isinstance(content, bytes):
                decode_image(content)
            contents[at] = content
        except (BadSource, Undecodable, OSError) as error:
            failed[str(at)] = str(error)
    return contents, failed


def _beside(frame: Any, ours: pa.Table) -> Any:
    """Return a frame with our columns behind its own."""
    if isinstance(frame, pa.Table):
        for name in ours.column_names:
            frame = frame.append_column(name, ours.column(name))
        return frame
    added = {
        name: column.to_pandas().to_numpy()
        for name, column in zip(ours.column_names, ours.columns, strict=True)
    }
    return frame.assign(**added)
