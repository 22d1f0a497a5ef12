"""The commands that `tools.kill` kills, and what they read: pictures, texts, tables, vectors."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from featurestore.pipeline import (
    gathered,
    job,
    kept_listings,
    large_listing,
    row_join,
    stored,
)
from featurestore.sources import stamps
from featurestore.storage import kept_counts

N, DIM = 40, 8


@dataclass(frozen=True)
class Case:
    """A command that writes; words in braces are places (`make_inputs`)."""

    name: str
    words: str
    dataset: str = "d"
    first: tuple[str, ...] = ()  # commands that run before, undisturbed
    at_once: str = ""  # another command, which runs at the same time and is not killed
    is_damaged: bool = False  # the last commit of each table of the data set is lost before
    is_once: bool = False  # done, it cannot be done again: exit code 1
    is_large: bool = False  # its listings are taken for large ones (`in_small_parts`)

    def __str__(self) -> str:
        return self.name


_IMPORT = "import {in}/%s.parquet --dataset %s --name x --id id --label kind"
# One by one: the last bits of a vector depend on the batch that it was in.
_EMBED = (
    "embed {in}/pictures --dataset %s -e baseline:pixels#size=2 -e builtin:tiny-image "
    "--batch-size 1"
)
_TAP = "embed {in}/pictures --dataset p -e builtin:tiny-image#tap=auto --batch-size 1"
_TEXTS = "embed %s --dataset n --text text --id id --label kind -e baseline:hashing#size=16"
_CHANGED = " --group kind"  # of all rows
CASES = (
    Case("embed, a new data set", "embed {in}/pictures --dataset n -e baseline:pixels", "n"),
    Case("embed, two encoders", _EMBED % "p", "p"),
    Case("embed, a tap", _TAP, "p"),
    Case("delete from a tap", "delete p dark/pictures02.png --yes", "p", first=(_TAP,),
         is_once=True),
    Case("embed, texts", "embed {in}/texts.csv --dataset t --text text --label kind", "t"),
    Case("embed, more texts", "embed {in}/more.csv --dataset t --text text --label kind", "t",
         first=("embed {in}/texts.csv --dataset t --text text --label kind",)),
    Case("embed --prune", "embed {in}/fewer --dataset p --prune", "p",
         first=("relocate p {in}/fewer",)),
    Case("embed --overwrite", "embed --dataset p --overwrite", "p"),
    Case("embed, large: a new data set", _TEXTS % "{in}/more.csv", "n", is_large=True),
    Case("embed, large: changed and more texts", _TEXTS % "{in}/texts.csv {in}/more.csv" + _CHANGED,
         "n", first=(_TEXTS % "{in}/texts.csv",), is_large=True),
    Case("embed, large: nothing to do", _TEXTS % "{in}/texts.csv", "n",
         first=(_TEXTS % "{in}/texts.csv",), is_large=True),
    Case("embed, large --overwrite", _TEXTS % "{in}/texts.csv" + " --overwrite", "n",
         first=(_TEXTS % "{in}/texts.csv",), is_large=True),
    Case("embed, large: pictures, two encoders", _EMBED % "p", "p", is_large=True),
    Case("embed, large --prune", "embed {in}/fewer --dataset p --prune", "p",
         first=("relocate p {in}/fewer",), is_large=True),
    Case("import, a new data set", _IMPORT % ("b", "n"), "n", is_once=True),
    Case("import", _IMPORT % ("b", "d"), is_once=True),
    Case("import --overwrite", _IMPORT % ("changed", "d") + " --overwrite"),
    Case("labels", "labels d {in}/labels.csv --id id"),
    Case("split", "split d --test 0.3 --seed 1", is_once=True),
    Case("review", "review d --item a07 --relabel k1 --who us"),
    Case("review --import", "review d --import {in}/reviews.csv --who us"),
    Case("index", "index d --factory IVF2,SQ8 --recall 0.9"),
    Case("compare", "compare d --head prototype --head majority"),
    Case("train", "train d --head prototype"),
    Case("train --save", "train d --head prototype --save {out}/bundle"),
    Case("curve", "curve d --head prototype --per-class 2,4 --draws 2"),
    Case("quality", "quality d"),
    Case("slices --save", "slices d --save s --where kind='k1' --overwrite"),
    Case("slices --drop", "slices d --drop old", is_once=True),
    Case("compact", "compact d"),
    Case("vacuum", "vacuum d --older-than 0", first=("compact d",)),
    Case("delete", "delete d a05 b05 --yes", first=(_IMPORT % ("b", "d"),), is_once=True),
    Case("delete --where", "delete d --where kind='k2' --yes"),
    Case("delete --erase", "delete d a05 --erase --yes", first=("train d --head prototype",),
         is_once=True),
    Case("rename", "rename d e", "d", is_once=True),
    Case("drop", "drop d --yes", is_once=True),
    Case("relocate", "relocate p {in}/moved", "p"),
    Case("export .parquet", "export d {out}/e.parquet", is_once=True),
    Case("export .npy", "export d {out}/e.npy", is_once=True),
    Case("export, a Hugging Face folder", "export d {out}/hf", is_once=True),
    Case("predict -o", "predict {in}/bundle {in}/more -o {out}/answers.csv", "p"),
    Case("project", "project d --method pca"),
    Case("store repair", "store repair d", first=(_IMPORT % ("b", "d"),), is_damaged=True),
    Case("two writers: import, import", _IMPORT % ("b", "d"), at_once=_IMPORT % ("c", "d"),
         is_once=True),
    Case("two writers: embed, labels", "embed {in}/more --dataset p", "p",
         at_once="labels p {in}/stars.csv --id id"),
    Case("two writers: the same embed", _EMBED % "p", "p", at_once=_EMBED % "p"),
    Case("two writers: large, the same embed", _TEXTS % "{in}/more.csv", "n",
         at_once=_TEXTS % "{in}/more.csv", first=(_TEXTS % "{in}/texts.csv",), is_large=True),
    Case("two writers: large, two sources", _TEXTS % "{in}/more.csv", "n",
         at_once=_TEXTS % "{in}/texts.csv" + _CHANGED, first=(_TEXTS % "{in}/texts.csv",),
         is_large=True),
    Case("two writers: import, compact", _IMPORT % ("b", "d"), at_once="compact d",
         is_once=True),
)  # fmt: skip


def in_small_parts() -> None:
    """Take every listing for a large one: on the disk, in several parts, chunks and buckets."""
    gathered.LARGE_ROWS, gathered.CHUNK_ROWS = 1, 8
    large_listing.PART_ROWS, row_join.BUCKET_ROWS = 12, 16
    stored.FEW_ROWS = 0
    for module in (job, kept_counts, kept_listings):
        module.WORTH_ROWS = 0
    stamps._SETTLED_S = -1e9


def make_inputs(folder: Path) -> None:
    """Write pictures, tables and vectors."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for where, n in (("pictures", 18), ("more", 9)):
        for i in range(n):
            path = folder / where / ("dark", "light")[i % 2] / f"{where}{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 128, (12, 12, 3), dtype=np.uint8) + 100 * (i % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "pictures" / "dark" / "broken.png").write_bytes(b"no picture")
    shutil.copytree(folder / "pictures", folder / "moved")
    shutil.copytree(folder / "pictures", folder / "fewer")
    for path in sorted((folder / "fewer" / "light").glob("*.png"))[:4]:
        path.unlink()

    def write(name: str, letter: str, start: int = 0, shift: float = 0) -> None:
        classes = np.arange(start, N) % 3
        vectors = rng.normal(size=(len(classes), DIM)) + 3 * np.eye(DIM)[classes] + shift
        rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype("f4").ravel()), DIM)
        ids = [f"{letter}{i:02d}" for i in range(start, N)]
        kinds = [f"k{one}" for one in classes]
        table = pa.table({"id": ids, "kind": kinds, "vector": rows})
        pq.write_table(table, folder / f"{name}.parquet")

    write("a", "a")
    write("a2", "a2")
    write("b", "b")
    write("c", "c")
    write("changed", "a", start=20, shift=1)
    numbers = [f"{i:02d}" for i in range(N)]
    csv = {
        "labels": {"id": [f"a{i}" for i in numbers], "grade": [f"g{int(i) % 4}" for i in numbers]},
        "stars": {"id": [f"dark/pictures{i:02d}.png" for i in range(0, 18, 2)],
                  "stars": [*"123" * 3]},
        "reviews": {"item_id": ["a01", "a02"], "action": ["exclude", "relabel"],
                    "value": ["", "k1"]},
        "texts": {"id": [f"t{i}" for i in numbers], "text": [f"a text about {i}" for i in numbers],
                  "kind": [f"k{int(i) % 2}" for i in numbers]},
        "more": {"id": [f"m{i}" for i in numbers], "text": [f"more on {i}" for i in numbers],
                 "kind": ["k0"] * N},
    }  # fmt: skip
    for name, columns in csv.items():
        pa.csv.write_csv(pa.table(columns), folder / f"{name}.csv")


SETUP = (
    _IMPORT % ("a", "d"),
    _IMPORT % ("a2", "d"),
    "slices d --save old --where kind='k0'",
    "review d --item a03 --confirm --who us",
    "embed {in}/pictures --dataset p -e baseline:pixels",
    "train p --head prototype --save {in}/bundle",
)
