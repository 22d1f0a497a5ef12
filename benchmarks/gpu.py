"""What a CUDA GPU brings: to embedding (and what limits it), to search, to logistic regression.

Run: python -m benchmarks.gpu [vit-b-32] [vit-l-14] [texts] [search] [logistic] (seven minutes;
needs a CUDA GPU, for `search` FAISS with one, and for `texts` ../shared)
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from joblib.externals.loky import ProcessPoolExecutor
from sklearn.datasets import load_sample_images

from benchmarks.heads import features
from benchmarks.report import SHARED, Row, at_least, median_s, run_sections
from featurestore.encoders.base import LoadOptions
from featurestore.encoders.images import decode_image
from featurestore.encoders.loading import load_encoders
from featurestore.pipeline.listing_run import Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.report import EmbedReport
from featurestore.search.exact import ExactIndex, load_faiss
from featurestore.search.gpu import has_gpu
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from featurestore.terms.specs import EncoderSpec, Modality
from heads.estimators.logistic import LogisticHead

# GFLOP per image at 224 px (2 × MAC), from open_clip's model_profile.csv; and files to embed.
MODELS = {"ViT-B-32": (8.82, 40_000), "ViT-L-14": (162.0, 24_000)}
# Dense matrix peaks in TFLOP/s by name of the device (NVIDIA's data sheets, without sparsity).
PEAKS = {"H100": {"fp32": 495.0, "bf16": 989.0}, "H200": {"fp32": 495.0, "bf16": 989.0}}
SIZES = (128, 512, 1024)
N_TEXTS = 100_000
PART = 4096  # queries at a time, as in the kNN graph


def main() -> int:
    if not torch.cuda.is_available():
        print("no CUDA GPU: nothing was measured", file=sys.stderr)
        return 1
    sections: dict[str, Callable[[], list[Row]]] = {
        "vit-b-32": lambda: _model("ViT-B-32"),
        "vit-l-14": lambda: _model("ViT-L-14"),
        "texts": _texts,
        "search": _search,
        "logistic": _logistic,
    }
    return run_sections("gpu", sections, sys.argv[1:])


def _model(model: str) -> list[Row]:
    gflop, n_files = MODELS[model]
    rows = [Row(f"device: {torch.cuda.get_device_name()}", os.cpu_count() or 0, "CPU cores")]
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        _photos(images, n_files)
        rows += _decoding(model, images)
        for precision in ("fp32", "bf16"):
            rows += _forward(model, images, gflop, precision)
            rows += _files(model, Path(folder), precision, rows)
    return rows


def _photos(images: Path, n: int) -> None:
    """Write scikit-learn's two photographs, 640 × 427, under other names and bytes."""
    images.mkdir()
    folder = Path(load_sample_images.__globals__["__file__"]).parent / "images"
    originals = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    for i in range(n):
        (images / f"{i:06}.jpg").write_bytes(originals[i % len(originals)] + str(i).encode())


def _decoding(model: str, images: Path) -> list[Row]:
    """Measure reading, decoding and resizing alone: on one core, and on all at once."""
    (encoder,) = load_encoders([EncoderSpec.parse(f"random:open_clip:{model}")], LoadOptions("cpu"))
    paths = sorted(images.iterdir())[:6000]
    _decode(paths[:50], encoder.preparer)
    started = time.perf_counter()
    _decode(paths[:400], encoder.preparer)
    core_s = (time.perf_counter() - started) / 400
    chunks = [paths[at : at + 20] for at in range(0, len(paths), 20)]
    n_cores = os.cpu_count() or 1
    with ProcessPoolExecutor(n_cores) as pool:
        list(pool.map(_decode, chunks[: 4 * n_cores], [encoder.preparer] * len(chunks)))
        started = time.perf_counter()
        list(pool.map(_decode, chunks, [encoder.preparer] * len(chunks)))
        all_rate = len(paths) / (time.perf_counter() - started)
    with ThreadPoolExecutor(n_cores) as threads:
        started = time.perf_counter()
        list(threads.map(_decode, chunks[:150], [encoder.preparer] * 150))
        thread_rate = 3000 / (time.perf_counter() - started)
    what = f"{model}: decode and resize 640 × 427 JPEGs"
    return [
        Row(f"{what}, on one core", core_s * 1e3, "ms/image"),
        Row(f"{what}, {n_cores} processes", all_rate, "images/s"),
        Row(f"{what}, {n_cores} threads", thread_rate, "images/s"),
    ]


def _decode(paths: list[Path], prepare: Callable[[Any], Any]) -> None:
    for path in paths:
        prepare(decode_image(path.read_bytes()))


def _forward(model: str, images: Path, gflop: float, precision: str) -> list[Row]:
    label = _label(model, precision)
    spec = EncoderSpec.parse(f"random:open_clip:{model}#precision={precision}")
    (encoder,) = load_encoders([spec], LoadOptions("cuda"))
    some = [path.read_bytes() for path in sorted(images.iterdir())[:8]]
    prepared = [encoder.prepare_image(decode_image(one)) for one in some] * (max(SIZES) // 8)
    stage, launch, fetch = encoder.runner([encoder], Modality.IMAGE)
    resident, hosted = {}, {}
    for size in SIZES:
        batch = prepared[:size]
        staged = stage(batch)
        resident[size] = _rate(lambda: launch(staged), fetch, size)  # noqa: B023
        hosted[size] = _rate(lambda: launch(stage(batch)), fetch, size)  # noqa: B023
    best = max(resident, key=lambda size: resident[size])
    rows = [
        Row(f"{label}: uint8 on the GPU, batch {best}", resident[best], "images/s"),
        Row(f"{label}: uint8 in host memory, one thread", max(hosted.values()), "images/s"),
    ]
    name = torch.cuda.get_device_name()
    if peak := next((peak[precision] for key, peak in PEAKS.items() if key in name), None):
        share = resident[best] * gflop / 1e3 / peak
        rows.append(Row(f"{label}: share of the matrix peak, {peak:g} TFLOP/s", share, "ratio"))
    (compiled,) = load_encoders([spec], LoadOptions("cuda", compile=True))
    stage, launch, fetch = compiled.runner([compiled], Modality.IMAGE)
    staged = stage(prepared[:best])
    rate = _rate(lambda: launch(staged), fetch, best)
    return [*rows, Row(f"{label}: --compile, uint8 on the GPU", rate, "images/s")]


def _files(model: str, folder: Path, precision: str, before: list[Row]) -> list[Row]:
    label = _label(model, precision)
    spec = f"random:open_clip:{model}#precision={precision}"
    report = _embed(folder / f"{model}-{precision}", [folder / "images"], spec)
    figure = {row.what: row.value for row in before}
    forward = next(v for k, v in figure.items() if k.startswith(f"{label}: uint8 on the GPU"))
    decode = next(v for k, v in figure.items() if k.endswith("processes"))
    rate = report.n_encoded / (report.seconds - report.stages["load"][0])
    return [
        Row(f"{label}: JPEG files; limit is to {report.limit}", rate, "images/s"),
        at_least(
            f"{label}: files ÷ min(decode, forward)", rate / min(decode, forward), "ratio", 0.9
        ),
        Row(f"{label}: batch size found", report.batch_size or 0, "images"),
        *(Row(f"{label}: {k} would gain", gain, "×") for k, gain in report.gains.items()),
    ]


def _embed(
    folder: Path, sources: list[Path], spec: str, options: SourceOptions | None = None
) -> EmbedReport:
    """Embed some, the batch size being found; then embed all, and return what that did."""
    store = open_store(folder, create=True)
    first = EmbedOptions(device="cuda")
    what = {"dataset": "d", "encoders": [spec], "source_options": options}
    store.embed(sources, embed_options=first, selection=Selection(limit=8000), **what)
    again = replace(first, overwrite=True)
    (report,) = store.embed(sources, embed_options=again, **what)
    print(f"  {report.describe()}", dict(report.stages), flush=True)
    return report


def _texts() -> list[Row]:
    """Embed texts with a network of MiniLM's shape: six layers of 384, random weights."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network"
        _text_network(network)
        table = Path(folder) / "texts.csv"
        with (SHARED / "data" / "banking77" / "train.csv").open(encoding="utf-8") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text"])
            writer.writerows([f"{texts[i % len(texts)]} {i}"] for i in range(N_TEXTS))
        for precision in ("fp32", "bf16"):
            spec = f"hf:local-dir:{network}#precision={precision}"
            report = _embed(Path(folder) / precision, [table], spec, SourceOptions(text="text"))
            rate = report.n_encoded / (report.seconds - report.stages["load"][0])
            label = _label("MiniLM's shape", precision)
            what = f"{label}: {N_TEXTS:,} short texts; limit is to {report.limit}"
            rows.append(Row(what, rate, "texts/s"))
            rows.append(Row(f"{label}: batch size found", report.batch_size or 0, "tokens"))
        shutil.rmtree(network)
    return rows


def _text_network(folder: Path) -> None:
    from importlib.resources import files

    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536, max_position_embeddings=512,
    )  # fmt: skip
    BertModel(shape).save_pretrained(folder)
    tokens = files("featurestore") / "weights" / "tiny-text.tokenizer.json"
    special = {
        f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")
    }
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokens), model_max_length=256, **special
    ).save_pretrained(folder)


def _search() -> list[Row]:
    """Find 21 neighbours of every vector, as the kNN graph does, on the GPU and on all cores."""
    faiss = load_faiss()
    if not has_gpu(faiss):
        print("search: this FAISS sees no GPU; nothing was measured", file=sys.stderr)
        return []
    rows = [Row("search: FAISS's CPU threads", faiss.omp_get_max_threads(), "threads")]
    rng = np.random.default_rng(0)
    for n in (100_000, 1_000_000):
        centres = rng.normal(size=(n // 5000, 512)).astype(np.float32)
        vectors = centres[rng.integers(0, len(centres), n)]
        vectors += 1.5 * rng.standard_normal(size=vectors.shape, dtype=np.float32)
        index = ExactIndex.build(np.arange(n).astype(str), vectors)
        label = f"search, {n:,} × 512, k = 21"
        index.search(vectors[: 4 * PART], k=21)  # CUDA starts, vectors are copied
        started = time.perf_counter()
        starts = range(0, n, PART)[:32]
        found = [index.search(vectors[at : at + PART], k=21).rows for at in starts]
        gpu_s = (time.perf_counter() - started) * n / sum(map(len, found))
        rows.append(Row(f"{label}: each of them, on the GPU", gpu_s, "s"))
        few = replace(index, metric=index.metric)  # without what is on the GPU
        few.search(vectors[:2], k=21)
        started = time.perf_counter()
        _, expected = few._flat.search(few.vectors[:PART], 21)
        cpu_s = (time.perf_counter() - started) * n / PART
        rows.append(Row(f"{label}: … on the CPU, from {PART:,} of them", cpu_s, "s"))
        rows.append(Row(f"{label}: … CPU over GPU", cpu_s / gpu_s, "ratio"))
        same = float((found[0] == expected).mean())
        rows.append(Row(f"{label}: rows that are the same", same, "share"))
    return rows


def _logistic() -> list[Row]:
    """Fit 50k × 512 × 100, C chosen, on the GPU and on all cores."""
    X, y = features(60_000, 512, 100, signal=0.18)
    X, y, held, held_y = X[:50_000], y[:50_000], X[50_000:], y[50_000:]
    heads = {name: LogisticHead("standardise", device=name) for name in ("cpu", "cuda")}
    heads["cuda"].fit(X[:5000], y[:5000])  # CUDA starts
    seconds = {name: median_s(lambda: head.fit(X, y), 3) for name, head in heads.items()}  # noqa: B023
    right = {name: float((head.predict(held) == held_y).mean()) for name, head in heads.items()}
    label = "logistic, 50k × 512 × 100, C chosen"
    return [
        Row(f"{label}: on {os.cpu_count()} cores", seconds["cpu"], "s"),
        Row(f"{label}: the last fit on the GPU", seconds["cuda"], "s"),
        Row(f"{label}: … CPU over GPU", seconds["cpu"] / seconds["cuda"], "ratio"),
        Row(
            f"{label}: accuracy on the GPU less that on the CPU",
            right["cuda"] - right["cpu"],
            "share",
        ),
    ]


def _label(model: str, precision: str) -> str:
    return f"{model} {'TF32' if precision == 'fp32' else precision}"


def _rate(work: Callable[[], Any], fetch: Callable[[Any], Any], size: int) -> float:
    """Images/s of batches launched one behind the other, median of three half seconds."""
    rates = []
    for _ in range(4):
        n, started = 0, time.perf_counter()
        under_way = [work()]
        while time.perf_counter() - started < 0.5:
            under_way.append(work())
            fetch(under_way.pop(0))
            n += size
        fetch(under_way.pop())
        rates.append((n + size) / (time.perf_counter() - started))
    return median(rates[1:])


if __name__ == "__main__":
    sys.exit(main())
