"""`--overwrite`: no old vector beside new ones, no view that is less than it was."""

import numpy as np
import pytest

from featurestore import Selection
from featurestore.errors import EncoderDrift
from featurestore.pipeline import writer
from featurestore.pipeline.options import EmbedOptions

WHOLE = EmbedOptions(overwrite=True)


class Offset:
    """Mean colour, and a number that stands for what the encoder was when it ran."""

    version = "1"

    def __init__(self, offset, stop_at=None):
        self.offset = offset
        self.stop_at = stop_at
        self.n_calls = 0

    def encode_images(self, images):
        self.n_calls += 1
        if self.n_calls == self.stop_at:
            raise KeyboardInterrupt
        means = [[*np.asarray(one, float).mean(axis=(0, 1)), self.offset] for one in images]
        return np.array(means)


def embed(store, source, encoder, **how):
    selection = how.pop("select", None)
    (report,) = store.embed(
        [source], dataset="d", encoders=[encoder], selection=selection,
        embed_options=EmbedOptions(**how),
    )  # fmt: skip
    return report


def offsets(store):
    found = store.dataset("d").views()[0].load()
    return dict(zip(found.ids, found.vectors[:, 3].tolist(), strict=True))


def test_equal_content_takes_no_vector_from_what_is_replaced(
    empty_store, tmp_path, write_image, monkeypatch
):
    monkeypatch.setattr(writer, "COMMIT_ROWS", 2)
    write_image(tmp_path / "set" / "0.png", (0, 0, 0))
    for number in range(1, 6):
        write_image(tmp_path / "set" / f"{number}.png", (7, 7, 7))
    embed(empty_store, tmp_path / "set", Offset(0))
    embed(empty_store, tmp_path / "set", Offset(9999), overwrite=True, batch_size=8)
    assert offsets(empty_store) == {f"{number}.png": 9999 for number in range(6)}


def test_a_drifted_view_is_replaced_whole_or_not_at_all(empty_store, tiny_images):
    embed(empty_store, tiny_images, Offset(0))
    some = Selection(limit=2)
    with pytest.raises(EncoderDrift):
        embed(empty_store, tiny_images, Offset(9999), overwrite=True, select=some)
    assert set(offsets(empty_store).values()) == {0}
    embed(empty_store, tiny_images, Offset(0), overwrite=True, select=some)
    view = empty_store.dataset("d").views()[0]
    assert len(view.load()) == len(view.table.read(["item_id"])) == 6
    embed(empty_store, tiny_images, Offset(9999), overwrite=True)
    assert set(offsets(empty_store).values()) == {9999}


def test_an_interrupt_leaves_no_mixture_and_the_next_run_goes_on(
    empty_store, tiny_images, monkeypatch
):
    monkeypatch.setattr(writer, "COMMIT_ROWS", 2)
    embed(empty_store, tiny_images, Offset(0))
    stopped = Offset(9999, stop_at=7)  # adopted, probed, probed again for the card, then pictures
    with pytest.raises(KeyboardInterrupt):
        embed(empty_store, tiny_images, stopped, overwrite=True, batch_size=1)
    kept = offsets(empty_store)
    assert set(kept.values()) == {9999}
    assert 0 < len(kept) < 6
    report = embed(empty_store, tiny_images, Offset(9999))  # without --overwrite
    assert report.n_encoded == 6 - len(kept)
    assert list(offsets(empty_store).values()) == [9999] * 6


def test_the_vectors_of_a_source_that_is_not_looked_at_are_no_reason_to_forget_a_drift(
    empty_store, tmp_path, write_image
):
    write_image(tmp_path / "a" / "1.png", 1)
    write_image(tmp_path / "b" / "2.png", 2)
    embed(empty_store, tmp_path / "a", Offset(0))
    embed(empty_store, tmp_path / "b", Offset(0))
    with pytest.raises(EncoderDrift):
        embed(empty_store, tmp_path / "a", Offset(9999), overwrite=True)
    assert set(offsets(empty_store).values()) == {0}
