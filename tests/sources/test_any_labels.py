"""Any texts as labels come back exactly, through every kind of table."""

import csv
import json
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.curation.labels import read_labels
from featurestore.sources.listing import SourceOptions
from featurestore.sources.opening import open_source

OPTIONS = SourceOptions(text="text", label=("label",))
# What looks like a number, a date, a gap or syntax stands beside any text at all.
ODD = ["01", "1", "1.0", "1.10", "-0", "+5", "1e3", "0x1A", "2024-01-05", "10:30", "NA", "null",
       "true", "nan", "inf", "a\rb", "\x00",
       '"', ",", ";", "\t", "a\nb", " x", "x ", "'", "#", "9" * 21]  # fmt: skip
ANY = st.one_of(
    st.sampled_from(ODD),
    st.integers().map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
COLUMNS = st.lists(ANY, min_size=1, max_size=6)
quick = settings(max_examples=40, deadline=None)


def came_back(labels, name, write):
    """Return the labels of a listing as texts, and how often each was there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        found = open_source(path).listing(OPTIONS).rows.column("label").to_pylist()
    missing = sum(one is None for one in found)
    # Texts of NaN among nothing but numbers are gaps.
    assert missing == 0 or any(label in ("nan", "NaN") for label in labels)
    return Counter(str(one) for one in found if one is not None)


def expected(labels, found):
    gaps = {"nan", "NaN"} if sum(found.values()) < len(labels) else set()
    return Counter(label for label in labels if label not in gaps)


def rows_of(labels):
    return [{"text": f"word {row}", "label": label} for row, label in enumerate(labels)]


@quick
@given(COLUMNS)
def test_through_csv(labels):
    def write(path):
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, ["text", "label"])
            out.writeheader()
            out.writerows(rows_of(labels))

    numbers = came_back(labels, "t.csv", write)
    assert as_numbers(numbers) == as_numbers(expected(labels, numbers))


def as_numbers(counts):
    """Whole numbers beside fractions are floats: 1 is 1.0 there."""
    if not all(one.lstrip("-").replace(".", "").isdigit() for one in counts):
        return counts
    return Counter({label.removesuffix(".0"): n for label, n in counts.items()})


def write_labels(path, labels):
    rows = [{"id": str(row), "label": label} for row, label in enumerate(labels)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, ["id", "label"])
            out.writeheader()
            out.writerows(rows)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@quick
@given(labels=COLUMNS)
def test_through_labels(ending, labels):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"l.{ending}")
        write_labels(path, labels)
        column = read_labels(path, item_id="id").column("label").to_pylist()
    found = Counter(str(one) for one in column if one is not None)
    if ending != "csv":
        assert found == Counter(labels)
    assert as_numbers(found) == as_numbers(expected(labels, found))


@quick
@given(st.lists(ANY.filter(lambda one: not set(one) & set("\t\n\r")), min_size=1, max_size=6))
def test_through_tsv(labels):
    labels = [label.splitlines()[0] or "x" for label in labels]

    def write(path):
        lines = [f"{one['text']}\t{one['label']}" for one in rows_of(labels)]
        path.write_text("\n".join(["text\tlabel", *lines]), encoding="utf-8", newline="")

    found = came_back(labels, "t.tsv", write)
    assert as_numbers(found) == as_numbers(expected(labels, found))


@quick
@given(COLUMNS)
def test_through_jsonl(labels):
    def write(path):
        path.write_text("\n".join(map(json.dumps, rows_of(labels))))

    assert came_back(labels, "t.jsonl", write) == Counter(labels)


@quick
@given(COLUMNS)
def test_through_parquet(labels):
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int16(), pa.string())):
        made = pa.Table.from_pylist(rows_of(labels))
        made = made.set_column(1, "label", made.column("label").cast(kind))
        found = came_back(labels, "t.parquet", lambda path, made=made: pq.write_table(made, path))
        assert found == Counter(labels)


@settings(max_examples=5, deadline=None)
@given(COLUMNS)
def test_through_a_saved_data_set(labels):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    plain = datasets.Dataset.from_list(rows_of(labels))
    names = sorted(set(labels))
    numbers = datasets.Dataset.from_dict(
        {"text": plain["text"], "label": [names.index(one) for one in labels]},
        features=datasets.Features(
            text=datasets.Value("string"), label=datasets.ClassLabel(names=names)
        ),
    )
    for made in (plain, numbers):
        assert came_back(labels, "saved", made.save_to_disk) == Counter(labels)
