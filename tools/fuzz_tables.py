"""Random small tables through `embed` and `import`: the same task, classes and groups.

``python -m tools.fuzz_tables 500`` prints each table on which the two differ, by its seed.
"""

from __future__ import annotations

import datetime
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.exchange.imports import import_vectors, read_vectors
from featurestore.sources.listing import SourceOptions
from featurestore.store.dataset import DataSet
from featurestore.store.store import Store, open_store
from heads.labels.tasks import Task, read_target

WORDS = ["red", "round", "01", "1", "1.0", "NA", " x", "é", "a|b", "red|round", "", "2024-01-05"]
DAY = datetime.date(2024, 1, 5)
Made = tuple[list[Any], pa.DataType]


def _words(draw: random.Random, n: int) -> Made:
    kinds = [pa.string(), pa.large_string(), pa.string_view()]
    kinds += [pa.dictionary(pa.int8(), kind) for kind in kinds[:2]]
    return [draw.choice([*WORDS, None]) for _ in range(n)], draw.choice(kinds)


def _lists(draw: random.Random, n: int) -> Made:
    inner, kind = draw.choice([
        (WORDS, pa.string()), (WORDS, pa.large_string()), (WORDS, pa.string_view()),
        ([1, 2, 300], pa.int16()), ([True, False], pa.bool_()),
        ([0.5, 1.0, float("nan")], pa.float64()), ([Decimal("1.5")], pa.decimal128(4, 2)),
    ])  # fmt: skip
    if draw.random() < 0.2:
        return [draw.choices(inner, k=2) for _ in range(n)], pa.list_(kind, 2)
    outer: Callable[[pa.DataType], pa.DataType] = draw.choice([pa.list_, pa.large_list])
    values = [draw.choices([*inner, None], k=draw.randrange(4)) for _ in range(n)]
    return [draw.choice([one, one, one, None]) for one in values], outer(kind)


def _whole(draw: random.Random, n: int) -> Made:
    kind = draw.choice([pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()])
    ends = {pa.int64(): [2**53 + 1, -(2**60)], pa.uint64(): [2**63 - 1, 2**64 - 1]}.get(kind, [])
    return [draw.choice([1, 2, 3, 100, None, *ends]) for _ in range(n)], kind


def _floats(draw: random.Random, n: int) -> Made:
    values = draw.choice([[0.0, 1.0, 2.0], [0.5, 1.0, -2.25], list(map(float, range(40)))])
    kind = draw.choice([pa.float16(), pa.float32(), pa.float64()])
    return [draw.choice([*values, float("nan"), None]) for _ in range(n)], kind


def _decimals(draw: random.Random, n: int) -> Made:
    values = draw.choice([[0, 1, 2], [Decimal("0.25"), Decimal("1.50")]])
    kind = draw.choice([pa.decimal128(8, 2), pa.decimal128(38, 10), pa.decimal256(60, 2)])
    return [draw.choice([*map(Decimal, values), None]) for _ in range(n)], kind


def _others(draw: random.Random, n: int) -> Made:
    values, kind = draw.choice([
        ([True, False], pa.bool_()), ([DAY, DAY + datetime.timedelta(1)], pa.date32()),
        ([datetime.datetime(2024, 1, 5, 10, k) for k in range(3)], pa.timestamp("us")),
        ([datetime.time(10, 30), datetime.time(1)], pa.time64("us")),
        ([{"a": 1, "b": [1.5, float("nan")]}, {"a": None, "b": []}],
         pa.struct([("a", pa.int64()), ("b", pa.list_(pa.float64()))])),
    ])  # fmt: skip
    return [draw.choice([*values, None]) for _ in range(n)], kind


KINDS = [_words, _lists, _whole, _floats, _decimals, _others]


def random_table(seed: int) -> pa.Table:
    """Return a table of 6 to 30 rows with a label and a group of random types."""
    draw = random.Random(seed)
    n = draw.randint(6, 30)
    label, kind = draw.choice(KINDS)(draw, n)
    group, group_kind = draw.choice([_words, _whole, _floats, _decimals])(draw, n)
    vectors = np.random.default_rng(seed).normal(size=(n, 4)).tolist()
    return pa.table({
        "id": [f"{row:03}" for row in range(n)],
        "vector": pa.array(vectors, pa.list_(pa.float32(), 4)),
        "text": [f"word {row}" for row in range(n)],
        "label": pa.array(label, kind),
        "group": pa.array(group, group_kind),
    })  # fmt: skip


def understood(dataset: DataSet) -> tuple[str, Any, list[str | None], list[Any]]:
    """Return the task, the classes with their counts, the groups, and the labels as stored."""
    task = Task(dataset.description.labels["label"]["task"])
    items = dataset.items(["item_id", "label", "group"]).sort_by("item_id")
    values = items.column("label").to_numpy(zero_copy_only=False)
    known = np.array([one is not None and one == one and one != "" for one in values], bool)
    classes: Any = sorted(values[known].tolist())
    if task is not Task.REGRESSION and len({str(one) for one in values[known]}) > 1:
        target = read_target(values[known], task, "label")
        rows = target.values if task is Task.MULTILABEL else target.lesson
        counts = rows.sum(axis=0).tolist() if task is Task.MULTILABEL else Counter(rows.tolist())
        classes = [target.classes, counts]
    return str(task), classes, items.column("group").to_pylist(), items.column("label").to_pylist()


def differ(store: Store, seed: int, folder: Path) -> str | None:
    """Take one table in through both doors; return what differs, None if nothing does."""
    path = folder / f"{seed}.parquet"
    table = random_table(seed)
    pq.write_table(table, path)
    options = SourceOptions(text="text", id="id", label=("label",), group="group")
    store.embed([path], dataset=f"e{seed}", encoders=["baseline:hashing"], source_options=options)
    incoming = read_vectors(path, item_id="id", vector="vector")
    import_vectors(
        store, incoming, dataset=f"i{seed}", name="x", origin=path, text="text", labels=["label"]
    )
    embedded, imported = (understood(store.dataset(f"{door}{seed}")) for door in "ei")
    if repr(embedded) == repr(imported):
        return None
    kinds = f"label {table.schema.field('label').type}, group {table.schema.field('group').type}"
    return f"{seed} ({kinds}): embed {embedded}, import {imported}"


def main(n: int) -> int:
    """Try ``n`` tables; return how many differ or fail."""
    n_bad = 0
    for seed in range(n):
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(Path(folder, "store"), create=True)
            try:
                said = differ(store, seed, Path(folder))
            except Exception as error:  # a door that raises is a finding, too
                said = f"{seed}: {type(error).__name__}: {error}"
        if said is not None:
            n_bad += 1
            print(said)
    print(f"{n_bad} of {n} tables differ")
    return n_bad


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)))
