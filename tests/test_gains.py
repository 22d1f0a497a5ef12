"""What a choice would gain is measured, and said only where it would change the pace."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from featurestore.encoders.loading import load_encoder
from featurestore.encoders.speedups import measure_gains
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.report import EmbedReport
from featurestore.terms.specs import EncoderSpec

REPORT = EmbedReport("d", "timm:x", 2000, 2000, 0, 0, 0, 0, 0, 10.0, device="cuda", limit="decode")


def photos(n, side=1600):
    small = np.random.default_rng(0).integers(0, 256, (n, 30, 40, 3), np.uint8)
    for one in small:
        sink = io.BytesIO()
        Image.fromarray(one).resize((side, side * 3 // 4), 3).save(sink, "JPEG", quality=90)
        yield sink.getvalue()


def test_both_choices_are_measured_where_none_is_made(mobilenet):
    encoder = load_encoder(EncoderSpec.parse(mobilenet), device="cpu")
    gains = measure_gains(encoder, list(photos(3)))
    assert gains.keys() == {"decode=fast", "precision=bf16"}
    assert min(gains.values()) > 0


def test_a_choice_that_is_made_or_not_there_gains_nothing(mobilenet):
    for spec in (f"{mobilenet}#decode=fast,precision=bf16", "baseline:pixels"):
        encoder = load_encoder(EncoderSpec.parse(spec), device="cpu")
        assert measure_gains(encoder, list(photos(1, 64))) == {}


def test_the_summary_says_what_the_limiting_stage_would_gain():
    gains = {"decode=fast": 2.34, "precision=bf16": 1.02}
    said = replace(REPORT, gains=gains).describe().splitlines()
    assert said[-1] == (
        "  the limit is to decode, which #decode=fast does 2.3 times as fast "
        "(other vectors: a view of its own)"
    )
    assert len(replace(REPORT, gains=gains, limit="encode").describe().splitlines()) == 1
    assert len(REPORT.describe().splitlines()) == 1


def test_a_long_run_measures_with_pictures_that_are_still_there(
    empty_store, tiny_images, monkeypatch
):
    seen = []
    monkeypatch.setattr("featurestore.pipeline.run._LONG_RUN_ITEMS", 6)
    monkeypatch.setattr(
        "featurestore.pipeline.run.measure_gains",
        lambda encoder, some: seen.append(some) or {"x": 2.0},
    )

    class OnGpu:
        version = "1"
        device = "cuda"
        n_calls = 0

        def encode_images(self, images):
            self.n_calls += 1
            if self.n_calls > 3:
                (tiny_images / "dark" / "0.png").unlink(missing_ok=True)
            return np.stack([np.asarray(one, float).mean(axis=(0, 1)) for one in images])

    (report,) = empty_store.embed(
        [tiny_images], dataset="d", encoders=[OnGpu()], embed_options=EmbedOptions(batch_size=6)
    )
    assert report.gains == {"x": 2.0}
    (some,) = seen
    expected = [path.read_bytes() for path in sorted(tiny_images.rglob("*.png"))]
    assert sorted(some) == sorted(expected)
