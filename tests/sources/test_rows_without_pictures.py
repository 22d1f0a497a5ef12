"""A row of a table that names no picture is one failure; the others are embedded."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = [("1.png", "x"), (None, "y"), ("2.png", "x"), ("  ", "z"), ("", "y"), ("gone.png", "x")]
FAILED = {
    "t{}:1": "no path in this row",
    "t{}:3": "no path in this row",
    "t{}:4": "no path in this row",
    "gone.png": "No such file or directory: gone.png",
}


def write(path):
    table = pa.table({"path": [one for one, _ in ROWS], "label": [label for _, label in ROWS]})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        by = "," if path.suffix == ".csv" else "\t"
        lines = [by.join((one or "", label)) for one, label in ROWS]
        path.write_text("\n".join([f"path{by}label", *lines]) + "\n")
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_the_others_are_embedded(fs, tmp_path, write_image, ending):
    write_image(tmp_path / "1.png", 1)
    write_image(tmp_path / "2.png", 2)
    table = write(tmp_path / f"t{ending}")
    words = ["embed", table, "--dataset", "d", "--image", "path", "--label", "label"]
    code, _, err = fs(*words, "-e", "baseline:pixels")
    assert code == 3
    assert "2 embedded, 4 failed" in err
    info = json.loads(fs("info", "d", "--json")[1])
    found = {one["item_id"]: one["error"] for one in info["failures"]}
    assert found == {name.format(ending): reason for name, reason in FAILED.items()}
    code, _, err = fs(*words, "-e", "baseline:pixels")
    assert code == 0, err  # known by now
    assert "4 failed before" in err
