"""Embedding on a CUDA GPU: from memory of the GPU, of the host, and from files; which limits.

Run: python -m benchmarks.embed_gpu (ten minutes; needs a CUDA GPU and ../shared)
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.report import SHARED, Row, at_least, finish
from featurestore.encoders import load_encoder
from featurestore.images import decode_image
from featurestore.ingest import EmbedOptions
from featurestore.store import open_store
from featurestore.values import EncoderSpec, Modality

STEEL = SHARED / "data" / "neu_steel"
# GFLOP per image at 224 px (2 × MAC), from open_clip's model_profile.csv.
MODELS = {"ViT-B-32": 8.82, "ViT-L-14": 162.0}
# Dense matrix peaks in TFLOP/s by name of the device (NVIDIA's data sheets, without sparsity).
PEAKS = {"H100": {"fp32": 495.0, "bf16": 989.0}, "H200": {"fp32": 495.0, "bf16": 989.0}}
N_FILES = 12_000


def main() -> int:
    if not torch.cuda.is_available():
        print("no CUDA GPU: nothing was measured", file=sys.stderr)
        return 1
    name = torch.cuda.get_device_name()
    peaks = next((peak for key, peak in PEAKS.items() if key in name), {})
    rows = [Row(f"device: {name}", torch.cuda.device_count(), "GPUs")]
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        _repeat(images)
        for model, gflop in MODELS.items():
            for precision in ("fp32", "bf16"):
                rows += _measure(Path(folder), images, model, gflop, precision, peaks)
    return finish("embed_gpu", rows)


def _repeat(images: Path) -> None:
    """Write the steel images under other names and bytes."""
    images.mkdir()
    originals = [path.read_bytes() for path in sorted(STEEL.rglob("*.jpg"))]
    for i in range(N_FILES):
        content = originals[i % len(originals)] + str(i).encode()
        (images / f"{i:06}.jpg").write_bytes(content)


def _measure(
    folder: Path, images: Path, model: str, gflop: float, precision: str, peaks: dict[str, float]
) -> list[Row]:
    spec = f"random:open_clip:{model}#precision={precision}"
    encoder = load_encoder(EncoderSpec.parse(spec), device="cuda")
    some = [path.read_bytes() for path in sorted(images.iterdir())[:1024]]
    started = time.process_time()
    prepared = [encoder.prepare_image(decode_image(one)) for one in some]
    decode_s = (time.process_time() - started) / len(some)
    stage, launch, fetch = encoder.runner([encoder], Modality.IMAGE)
    resident, hosted = {}, {}
    for size in (64, 128, 256, 512, 1024):
        batch = prepared[:size]
        staged = stage(batch)
        repeats = max(4, 8192 // size)
        resident[size] = _rate(lambda: launch(staged), fetch, size, repeats)  # noqa: B023
        hosted[size] = _rate(lambda: launch(stage(batch)), fetch, size, repeats)  # noqa: B023
    best = max(resident, key=lambda size: resident[size])
    store = open_store(folder / f"{model}-{precision}", create=True)
    store.embed([images], dataset="d", encoders=[spec])  # finds the batch size
    (report,) = store.embed(
        [images], dataset="d", encoders=[spec], how=EmbedOptions(overwrite=True)
    )
    files = report.n_encoded / report.seconds
    limit = min((os.cpu_count() or 1) / decode_s, max(hosted.values()))
    label = f"{model} {'TF32' if precision == 'fp32' else precision}"
    rows = [
        Row(f"{label}: uint8 on the GPU, batch {best}", resident[best], "images/s"),
        Row(f"{label}: uint8 in host memory", max(hosted.values()), "images/s"),
        Row(f"{label}: JPEG files", files, "images/s"),
        Row(f"{label}: decode", decode_s * 1e3, "core-ms/image"),
        at_least(f"{label}: files ÷ min(decode, forward)", files / limit, "ratio", 0.9),
        Row(
            f"{label}: limit is {report.limit}; batch size found", report.batch_size or 0, "images"
        ),
    ]
    if precision in peaks:
        share = resident[best] * gflop / 1e3 / peaks[precision]
        rows.append(Row(f"{label}: share of the matrix peak", share, "ratio"))
    return rows


def _rate(work: object, fetch: object, size: int, repeats: int) -> float:
    """Images/s of batches launched one behind the other, median of three."""
    rates = []
    for _ in range(4):
        started = time.perf_counter()
        under_way = [work()]  # type: ignore[operator]
        for _ in range(repeats - 1):
            under_way.append(work())  # type: ignore[operator]
            fetch(under_way.pop(0))  # type: ignore[operator]
        fetch(under_way.pop())  # type: ignore[operator]
        rates.append(size * repeats / (time.perf_counter() - started))
    return median(rates[1:])


if __name__ == "__main__":
    sys.exit(main())
