import hashlib
import threading
import time

import numpy as np
import pytest

from featurestore.batching import BatchSize
from featurestore.embed import Clock, Todo, embed_items
from featurestore.values import Modality


class FakeEncoder:
    """Vectors that a person can predict: mean colour of an image, length of a text."""

    def __init__(self, memory=10**9):
        self.memory = memory
        self.batches = []
        self.prepared = 0

    def prepare_image(self, image):
        self.prepared += 1
        return np.asarray(image)

    def encode_images(self, prepared):
        if len(prepared) > self.memory:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        self.batches.append(len(prepared))
        return np.stack([p.reshape(-1, 3).mean(0) for p in prepared]).astype(np.float32)

    def encode_texts(self, texts):
        self.batches.append(len(texts))
        return np.array([[len(t), np.nan if "bad" in t else 0] for t in texts], np.float32)


def images(tmp_path, write_image, n):
    paths = [write_image(tmp_path / f"{i}.png", (i, 0, 0)) for i in range(n)]
    return [Todo(i, path, None) for i, path in enumerate(paths)]


def run(todos, encoder, *, modality=Modality.IMAGE, known=frozenset(), size=4, **options):
    outcomes = embed_items(
        todos, encoder, modality=modality, known=known,
        batch_size=BatchSize(size, settled=True), **options,
    )  # fmt: skip
    return {one.row: one for one in outcomes}


def test_each_image_gets_the_vector_of_its_own_pixels(tmp_path, write_image):
    encoder = FakeEncoder()
    found = run(images(tmp_path, write_image, 10), encoder)
    assert {row: one.vector.tolist() for row, one in found.items()} == {
        i: [i, 0, 0] for i in range(10)
    }
    assert encoder.batches == [4, 4, 2]
    content = (tmp_path / "3.png").read_bytes()
    assert found[3].content_hash == hashlib.sha256(content).hexdigest()


def test_known_content_is_neither_decoded_nor_encoded(tmp_path, write_image):
    todos = images(tmp_path, write_image, 3)
    known = {hashlib.sha256(todos[1].path.read_bytes()).hexdigest()}
    encoder = FakeEncoder()
    found = run(todos, encoder, known=known)
    assert [found[row].is_known for row in range(3)] == [False, True, False]
    assert encoder.prepared == 2


def test_a_bad_item_stops_nothing_and_says_why(tmp_path, write_image):
    todos = images(tmp_path, write_image, 3)
    todos[1].path.write_bytes(b"garbage")
    todos.append(Todo(3, tmp_path / "absent.png", None))
    todos.append(Todo(4, None, None))
    found = run(todos, FakeEncoder())
    assert [found[row].failed_stage for row in range(5)] == [None, "decode", None, "read", "read"]
    assert "not an image" in found[1].error
    assert "No such file" in found[3].error
    assert found[3].content_hash is None
    assert found[1].content_hash == hashlib.sha256(b"garbage").hexdigest()


@pytest.mark.parametrize("memory", [1, 2, 3, 7])
def test_when_memory_runs_out_the_batch_is_halved_and_nothing_is_lost(
    tmp_path, write_image, memory
):
    encoder = FakeEncoder(memory=memory)
    found = run(images(tmp_path, write_image, 20), encoder, size=16)
    assert {row: one.vector.tolist() for row, one in found.items()} == {
        i: [i, 0, 0] for i in range(20)
    }
    assert max(encoder.batches) <= memory


def test_equal_content_is_encoded_once_however_it_is_batched(tmp_path, write_image):
    path = write_image(tmp_path / "a.png", (1, 2, 3))
    encoder, known = FakeEncoder(), set()
    stream = embed_items(
        [Todo(row, path, None) for row in range(50)], encoder, modality=Modality.IMAGE,
        known=known, batch_size=BatchSize(4, settled=True),
    )  # fmt: skip
    encoded = 0
    for one in stream:
        if one.vector is not None:
            encoded += 1
            known.add(one.content_hash)
    assert (encoded, encoder.batches) == (1, [1])


def test_an_item_that_alone_does_not_fit_is_a_failure(tmp_path, write_image):
    found = run(images(tmp_path, write_image, 2), FakeEncoder(memory=0))
    assert [found[row].failed_stage for row in range(2)] == ["encode", "encode"]


def test_other_errors_of_the_encoder_are_not_swallowed(tmp_path, write_image):
    encoder = FakeEncoder()
    encoder.encode_images = lambda prepared: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(images(tmp_path, write_image, 2), encoder)


def test_texts_go_by_length_and_bad_ones_are_named():
    texts = ["four", "a", "", "bad", "  ", "seven77", None]
    encoder = FakeEncoder()
    found = run(
        [Todo(i, None, t) for i, t in enumerate(texts)], encoder, modality=Modality.TEXT, size=2
    )
    vectors = {row: one.vector for row, one in found.items() if one.vector is not None}
    assert {row: v.tolist() for row, v in vectors.items()} == {0: [4, 0], 1: [1, 0], 5: [7, 0]}
    assert {row: one.failed_stage for row, one in found.items() if one.vector is None} == {
        2: "read", 3: "encode", 4: "read", 6: "read",
    }  # fmt: skip
    assert "NaN" in found[3].error


def test_decoding_stays_a_bounded_window_ahead(tmp_path, write_image):
    todos = images(tmp_path, write_image, 60)
    encoder = FakeEncoder()
    stream = embed_items(
        todos, encoder, modality=Modality.IMAGE, known=frozenset(),
        batch_size=BatchSize(4, settled=True), n_workers=2,
    )  # fmt: skip
    next(stream)
    time.sleep(0.2)  # time enough for workers to run away, were they free to
    assert encoder.prepared <= 4 + 2 * 4 + 2
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_the_clock_names_the_slow_stage(tmp_path, write_image):
    class Slow(FakeEncoder):
        def encode_images(self, prepared):
            time.sleep(0.05)
            return super().encode_images(prepared)

    clock = Clock()
    run(images(tmp_path, write_image, 8), Slow(), clock=clock)
    assert clock.limit == "encoding"
    assert clock.n_encoded == 8
