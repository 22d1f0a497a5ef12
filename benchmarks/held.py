"""`heads.compare` on 1,360 pictures, beside the same on an earlier commit.

Run: git worktree add ../before COMMIT && python -m benchmarks.held ../before
(some three minutes on 2 cores; needs ../shared and `benchmarks.ten`)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import heads
from benchmarks.memory import views_of
from benchmarks.report import Row, at_least, at_most, finish

N_ITEMS = 1360
DATA = ("neu_steel", "blood_cells", "hurricane_damage", "cifar10")
HELD = "cifar10"  # ten classes, and more pictures than are drawn
VECTORS = Path(os.environ.get("FEATURESTORE_BENCH", "featurestore-data-bench")) / "held"


def vectors_of(name: str) -> Path:
    """Write the vectors and labels of a data set, which another commit can read, too."""
    path = VECTORS / f"{name}.npz"
    if not path.exists():
        from benchmarks.ten import mobilenet, ten

        store = ten()
        first, second = (store.view(name, spec).load() for spec in (mobilenet(), "baseline:pixels"))
        drawn = np.random.default_rng(0).permutation(len(first))[:N_ITEMS]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path, network=first.vectors[drawn], pixels=second.vectors[drawn],
            label=first.labels[drawn].astype(str), group=first.column("group")[drawn].astype(str),
        )  # fmt: skip
    return path


def compared(path: Path) -> dict[str, Any]:
    """Compare the default heads, and say how long it took; in a process of its own."""
    given = np.load(path)
    vectors = {"timm:mobilenetv2_100": given["network"], "baseline:pixels": given["pixels"]}
    groups = [None if one == "None" else one for one in given["group"].tolist()]
    views = list(views_of(vectors, given["label"].tolist(), group=groups).values())
    wall, cpu = time.perf_counter(), time.process_time()
    found = heads.compare(views, evaluation="folds", save=False)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "n": found.n_items,
        "rows": {f"{row['head']} on {row['encoder']}": row for row in found.rows()},
    }


def of_tree(tree: Path, path: Path) -> dict[str, Any]:
    """Run `compared` with the code of a working tree."""
    code = "import json; from pathlib import Path; import benchmarks.held as h; "
    code += f"print(json.dumps(h.compared(Path({str(path)!r}))))"
    for script in ("held.py", "memory.py"):  # an earlier commit has none, or one that is older
        shutil.copy(Path(__file__).parent / script, tree / "benchmarks" / script)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, check=True, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(tree)},
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def main(before: Path) -> int:
    rows: list[Row] = []
    for name in DATA:
        path = vectors_of(name).resolve()
        old, new = of_tree(before.resolve(), path), compared(path)
        what = f"{name}, {new['n']:,} pictures × 2 encoders × 5 heads × 25 fits"
        bar = at_least if name == HELD else lambda what, value, unit, bar: Row(what, value, unit)
        rows += [
            Row(f"{what}: before", old["cpu"], "s of CPU"),
            Row("… now", new["cpu"], "s of CPU"),
            bar("… before over now, CPU", old["cpu"] / new["cpu"], "ratio", 4),
            Row("… before over now, wall", old["wall"] / new["wall"], "ratio"),
        ]
        for head, row in new["rows"].items():
            was = old["rows"][head]
            said = f"{100 * was['value']:.2f} → {100 * row['value']:.2f}"
            moved = 100 * abs(row["value"] - was["value"])
            rows.append(at_most(f"{name}, {head}: {said}", moved, "points moved", 0.1))
            ends = max(abs(row[key] - was[key]) for key in ("low", "high"))
            rows.append(Row("… its interval", 100 * ends, "points moved"))
        finish("held", rows)
    return finish("held", rows)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
