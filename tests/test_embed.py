import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from featurestore.encoders.base import Encoder
from featurestore.errors import EncoderFailed, FeatureStoreError
from featurestore.pipeline import decode_ahead
from featurestore.pipeline.batching import BatchSize
from featurestore.pipeline.embed_items import embed_items
from featurestore.pipeline.lane import Lane
from featurestore.pipeline.options import PROCESSES, THREADS
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.todo import Todo
from featurestore.sources.reading import Reader
from featurestore.terms.specs import Modality


class FakeEncoder(Encoder):
    """Vectors that a person can predict: mean colour of an image, length of a text."""

    device = "cpu"
    resolved = SimpleNamespace(spec="python:fake")

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


class FakeGpu(FakeEncoder):
    """Three steps as on a GPU; notes what is staged, launched and fetched, in order."""

    device = "cuda"

    def __init__(self, memory=10**9):
        super().__init__(memory)
        self.steps = []

    def runner(self, encoders, modality):
        def stage(contents):
            return list(contents)

        def launch(staged):
            self.steps.append(("launch", len(staged)))
            return staged

        def fetch(launched):
            self.steps.append(("fetch", len(launched)))
            vectors = self.encode_images(launched)
            return [vectors * factor for factor in range(1, len(encoders) + 1)]

        return stage, launch, fetch


def images(tmp_path, write_image, n):
    for i in range(n):
        write_image(tmp_path / f"{i}.png", (i, 0, 0))
    return [Todo(i, "s", f"{i}.png", None) for i in range(n)]


def texts(*values):
    return [Todo(i, "s", None, text) for i, text in enumerate(values)]


def lane(encoder, size=4, modality=Modality.IMAGE, views=(0,), **how):
    encoders = [encoder] * len(views)
    return Lane(encoders, views, modality, BatchSize(size, settled=True, **how))


def stream(root, todos, lanes, *, modality=Modality.IMAGE, known=None, **options):
    n_views = 1 + max(view for one in lanes for view in one.views)
    return embed_items(
        todos,
        lanes,
        modality=modality,
        known=known or [set() for _ in range(n_views)],
        readers={"s": Reader("folder", str(root))},
        **options,
    )


def run(root, todos, encoder, *, size=4, modality=Modality.IMAGE, known=None, **options):
    lanes = [lane(encoder, size, modality)]
    outcomes = stream(root, todos, lanes, modality=modality, known=known, **options)
    return {one.row: one for one in outcomes}


def test_each_image_gets_the_vector_of_its_own_pixels(tmp_path, write_image):
    encoder = FakeEncoder()
    found = run(tmp_path, images(tmp_path, write_image, 10), encoder)
    assert {row: one.vector.tolist() for row, one in found.items()} == {
        i: [i, 0, 0] for i in range(10)
    }
    assert encoder.batches == [4, 4, 2]
    content = (tmp_path / "3.png").read_bytes()
    assert found[3].content_hash == hashlib.sha256(content).hexdigest()


def test_known_content_is_neither_decoded_nor_encoded(tmp_path, write_image):
    todos = images(tmp_path, write_image, 3)
    known = {hashlib.sha256((tmp_path / "1.png").read_bytes()).hexdigest()}
    encoder = FakeEncoder()
    found = run(tmp_path, todos, encoder, known=[known])
    assert [found[row].is_known for row in range(3)] == [False, True, False]
    assert encoder.prepared == 2


def test_a_bad_item_stops_nothing_and_says_why(tmp_path, write_image):
    todos = images(tmp_path, write_image, 3)
    (tmp_path / "1.png").write_bytes(b"garbage")
    todos += [Todo(3, "s", "absent.png", None), Todo(4, "s", None, None)]
    found = run(tmp_path, todos, FakeEncoder())
    assert [found[row].failed_stage for row in range(5)] == [None, "decode", None, "read", "read"]
    assert "not an image" in found[1].error
    assert "No such file" in found[3].error
    assert found[3].content_hash is None
    assert found[1].content_hash == hashlib.sha256(b"garbage").hexdigest()


def test_several_encoders_share_one_read_and_one_decode(tmp_path, write_image, monkeypatch):
    import featurestore.pipeline.decode_ahead

    decoded = []

    def counted(content, *, at_least_px=None):
        decoded.append(at_least_px)
        return decode(content, at_least_px=at_least_px)

    decode = featurestore.pipeline.decode_ahead.decode_image
    monkeypatch.setattr(featurestore.pipeline.decode_ahead, "decode_image", counted)
    small, large, layered = FakeEncoder(), FakeEncoder(), FakeGpu()
    layered.device = "cpu"
    lanes = [lane(small, 2), lane(large, 3, views=(1,)), lane(layered, 4, views=(2, 3))]
    found = {}
    for one in stream(tmp_path, _for_views(images(tmp_path, write_image, 7), 4), lanes):
        found[one.view, one.row] = one.vector.tolist()
    expected = {(view, i): [i, 0, 0] for view in range(3) for i in range(7)}
    assert found == expected | {(3, i): [2 * i, 0, 0] for i in range(7)}
    assert decoded == [None] * 7
    assert (small.batches, large.batches) == ([2, 2, 2, 1], [3, 3, 1])
    assert layered.batches == [4, 3]  # both layers came from one pass


def test_each_view_gets_what_it_lacks_and_no_more(tmp_path, write_image):
    todos = images(tmp_path, write_image, 4)
    known = [set(), {hashlib.sha256((tmp_path / "0.png").read_bytes()).hexdigest()}]
    one, both = FakeEncoder(), FakeEncoder()
    some = [Todo(t.row, t.source, t.uri, None, (0, 1) if t.row < 2 else (0,)) for t in todos]
    lanes = [lane(both), lane(one, views=(1,))]
    found = [(o.view, o.row, o.is_known) for o in stream(tmp_path, some, lanes, known=known)]
    assert sorted(found) == [
        (0, 0, False), (0, 1, False), (0, 2, False), (0, 3, False), (1, 0, True), (1, 1, False),
    ]  # fmt: skip
    assert (both.batches, one.batches) == ([4], [1])


def _for_views(todos, n_views):
    return [Todo(t.row, t.source, t.uri, t.text, tuple(range(n_views))) for t in todos]


def test_a_gpu_computes_one_batch_while_the_next_is_launched(tmp_path, write_image):
    encoder = FakeGpu()
    found = run(tmp_path, images(tmp_path, write_image, 12), encoder, size=3)
    assert {row: one.vector.tolist() for row, one in found.items()} == {
        i: [i, 0, 0] for i in range(12)
    }
    assert encoder.steps == [
        ("launch", 3), ("launch", 3), ("fetch", 3), ("launch", 3), ("fetch", 3),
        ("launch", 3), ("fetch", 3), ("fetch", 3),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [FakeEncoder, FakeGpu])
@pytest.mark.parametrize("memory", [1, 2, 3, 7])
def test_when_memory_runs_out_the_batch_is_halved_and_nothing_is_lost(
    tmp_path, write_image, memory, kind
):
    encoder = kind(memory=memory)
    found = run(tmp_path, images(tmp_path, write_image, 20), encoder, size=16)
    assert {row: one.vector.tolist() for row, one in found.items()} == {
        i: [i, 0, 0] for i in range(20)
    }
    assert max(encoder.batches) <= memory


def test_equal_content_is_encoded_once_however_it_is_batched(tmp_path, write_image):
    write_image(tmp_path / "a.png", (1, 2, 3))
    encoder, known = FakeEncoder(), set()
    todos = [Todo(row, "s", "a.png", None) for row in range(50)]
    encoded = 0
    for one in stream(tmp_path, todos, [lane(encoder)], known=[known]):
        if one.vector is not None:
            encoded += 1
            known.add(one.content_hash)
    assert (encoded, encoder.batches) == (1, [1])


def test_an_item_that_alone_does_not_fit_is_a_failure(tmp_path, write_image):
    class Small(FakeEncoder):
        def encode_images(self, prepared):
            if any(one.max() < 2 for one in prepared):
                raise MemoryError("out of memory")
            return super().encode_images(prepared)

    found = run(tmp_path, images(tmp_path, write_image, 4), Small())
    assert [found[row].failed_stage for row in range(4)] == ["encode", "encode", None, None]
    assert found[0].error == "out of memory on one item: out of memory"
    with pytest.raises(EncoderFailed, match="2 items on which it failed are not counted"):
        run(tmp_path, images(tmp_path, write_image, 2), FakeEncoder(memory=0))


class Picky(FakeEncoder):
    """Raises on dark pictures, and on all that come after `lives` passes."""

    lives = 10**9

    def encode_images(self, prepared):
        self.lives -= 1
        if self.lives < 0:
            raise ValueError("CUDA error: the device is lost")
        if any(one.max() < 5 for one in prepared):
            raise KeyError("dark")
        return super().encode_images(prepared)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_item_on_which_an_encoder_raises_is_a_failure_and_costs_no_other(
    tmp_path, write_image, device
):
    encoder = type("OnDevice", (Picky, FakeGpu), {"device": device})()
    todos = images(tmp_path, write_image, 12)
    found = run(tmp_path, todos, encoder, size=8)
    dark = set(range(5))
    assert {row for row, one in found.items() if one.failed_stage == "encode"} == dark
    assert {row for row, one in found.items() if one.vector is not None} == set(range(12)) - dark
    assert {found[row].error for row in dark} == {"KeyError: 'dark'"}


def test_an_encoder_that_raises_on_one_item_after_the_other_stops_and_accuses_none(
    tmp_path, write_image
):
    encoder = Picky()
    encoder.lives = 1
    todos = images(tmp_path, write_image, 40)[5:]
    outcomes = []
    with pytest.raises(EncoderFailed, match=r"no longer works \(ValueError: CUDA error: the dev"):
        outcomes.extend(stream(tmp_path, todos, [lane(encoder)]))
    assert [one.row for one in outcomes if one.vector is not None] == [5, 6, 7, 8]
    assert not [one for one in outcomes if one.failed_stage]


def test_many_bad_items_in_a_row_are_failures_while_the_encoder_works(tmp_path, write_image):
    todos = images(tmp_path, write_image, 60)
    todos = [replace(todos[0], row=i) for i in range(40)] + [
        replace(one, row=40 + i) for i, one in enumerate(todos[5:25])
    ]
    for i in range(40):  # of other bytes, or they would be one content
        image = Image.new("RGB", (4, 4), (0, 0, 4))
        image.putpixel((0, 0), (0, i % 5, i // 10))
        image.save(tmp_path / f"bad{i}.png")
        todos[i] = replace(todos[i], uri=f"bad{i}.png")
    found = run(tmp_path, todos, Picky(), size=8)
    assert {row for row, one in found.items() if one.vector is not None} == set(range(40, 60))
    failed = {one.content_hash for row, one in found.items() if row < 40}
    assert len(failed) > 16


def test_an_encoder_that_dies_near_the_end_accuses_none(tmp_path, write_image):
    encoder = Picky()
    encoder.lives = 1
    outcomes = []
    with pytest.raises(EncoderFailed, match="6 items on which it failed are not counted"):
        outcomes.extend(stream(tmp_path, images(tmp_path, write_image, 15)[5:], [lane(encoder)]))
    assert not [one for one in outcomes if one.failed_stage]


def test_an_encoder_that_fails_lets_the_others_finish(tmp_path, write_image):
    broken, well = Picky(), FakeEncoder()
    broken.lives = 0
    todos = images(tmp_path, write_image, 40)
    todos = [replace(one, views=(0, 1)) for one in todos]
    outcomes = []
    with pytest.raises(EncoderFailed):
        outcomes.extend(stream(tmp_path, todos, [lane(broken), lane(well, views=(1,))]))
    assert sorted(one.row for one in outcomes if one.view == 1) == list(range(40))
    assert not [one for one in outcomes if one.view == 0]


def test_texts_go_by_length_and_bad_ones_are_named():
    encoder = FakeEncoder()
    todos = texts("four", "a", "", "bad", "  ", "seven77", None)
    found = run("/", todos, encoder, modality=Modality.TEXT, size=2)
    vectors = {row: one.vector for row, one in found.items() if one.vector is not None}
    assert {row: v.tolist() for row, v in vectors.items()} == {0: [4, 0], 1: [1, 0], 5: [7, 0]}
    assert {row: one.failed_stage for row, one in found.items() if one.vector is None} == {
        2: "read", 3: "encode", 4: "read", 6: "read",
    }  # fmt: skip
    assert "NaN" in found[3].error


def test_batches_of_texts_hold_no_more_tokens_than_they_may():
    class Tokens(FakeEncoder):
        def tokenize(self, texts):
            return [t.split() for t in texts], [len(t.split()) for t in texts], [False] * len(texts)

        def encode_texts(self, tokens):
            self.batches.append([len(one) for one in tokens])
            return np.array([[len(one)] for one in tokens], np.float32)

    encoder = Tokens()
    lengths = np.random.default_rng(0).integers(1, 40, 300).tolist()
    lanes = [lane(encoder, 256, Modality.TEXT, counts_tokens=True)]
    todos = texts(*(" ".join(f"{i}w{j}" for j in range(n)) for i, n in enumerate(lengths)))
    found = {o.row: int(o.vector[0]) for o in stream("/", todos, lanes, modality=Modality.TEXT)}
    assert found == dict(enumerate(lengths))
    assert all(len(batch) * max(batch) <= 256 for batch in encoder.batches)
    padded = sum(len(batch) * max(batch) for batch in encoder.batches)
    assert padded < 1.06 * sum(lengths)  # sorted by length: little is padding
    assert len(encoder.batches) < 1.3 * padded / 256


def test_decoding_stays_a_bounded_window_ahead(tmp_path, write_image):
    todos = images(tmp_path, write_image, 60)
    encoder = FakeEncoder()
    outcomes = stream(tmp_path, todos, [lane(encoder)], n_workers=2)
    next(outcomes)
    time.sleep(0.2)  # time enough for workers to run away, were they free to
    assert encoder.prepared <= 4 + 2 * 4 + 2 * 2
    outcomes.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("decode", "stage"))]


def test_the_clock_names_the_slow_stage(tmp_path, write_image):
    class Slow(FakeEncoder):
        def encode_images(self, prepared):
            time.sleep(0.05)
            return super().encode_images(prepared)

    clock = Clock()
    run(tmp_path, images(tmp_path, write_image, 8), Slow(), clock=clock)
    assert clock.limit == "encode"
    assert [(name, n) for name, _, n in clock.rows()] == [
        ("read", 8), ("decode", 8), ("wait", 0), ("encode", 8),
    ]  # fmt: skip

    class SlowToPrepare(FakeEncoder):
        def prepare_image(self, image):
            time.sleep(0.02)
            return super().prepare_image(image)

    clock = Clock()
    run(tmp_path, images(tmp_path, write_image, 8), SlowToPrepare(), clock=clock)
    assert clock.limit == "decode"


class ForProcesses(FakeEncoder):
    """Its transform can be handed to another process."""

    def __init__(self, preparer=np.asarray):
        super().__init__()
        self.preparer = preparer

    def prepare_image(self, image):
        return self.preparer(image)


def test_processes_prepare_what_threads_prepare(tmp_path, write_image, monkeypatch):
    monkeypatch.setattr(decode_ahead, "THREADS_MEANWHILE", False)
    todos = images(tmp_path, write_image, 40)
    (tmp_path / "3.png").write_bytes(b"no picture")
    (tmp_path / "4.png").unlink()
    (tmp_path / "5.png").write_bytes((tmp_path / "6.png").read_bytes())
    todos.append(Todo(40, "s", None, None))
    known = {hashlib.sha256((tmp_path / "7.png").read_bytes()).hexdigest()}
    found = [
        run(
            tmp_path, todos, ForProcesses(), known=[set(known)], n_workers=2, decode_in=where
        )
        for where in (THREADS, PROCESSES)
    ]  # fmt: skip
    assert len(found[0]) == 41
    for row, one in found[0].items():
        other = found[1][row]
        assert (one.content_hash, one.failed_stage, one.error, one.is_known) == (
            other.content_hash, other.failed_stage, other.error, other.is_known,
        )  # fmt: skip
        if one.vector is not None:
            assert one.vector.tolist() == other.vector.tolist()


def test_the_pipe_that_pictures_come_through_is_wide_where_that_can_be(monkeypatch):
    reader, writer = os.pipe()
    processes = SimpleNamespace(_result_queue=SimpleNamespace(_reader=reader))
    decode_ahead._widen(processes)
    assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) >= decode_ahead._PIPE_BYTES
    os.close(reader)
    os.close(writer)
    decode_ahead._widen(processes)  # no pipe any more
    decode_ahead._widen(object())  # another loky
    monkeypatch.setitem(sys.modules, "fcntl", None)  # Windows
    decode_ahead._widen(processes)


def test_processes_take_over_and_one_that_dies_is_named(tmp_path, write_image):
    parent = os.getpid()
    images(tmp_path, write_image, 1)

    def dies_elsewhere(image):
        time.sleep(0.05)
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.asarray(image)

    def todos():
        return (Todo(i, "s", "0.png", None) for i in range(10_000))

    encoder = ForProcesses(dies_elsewhere)
    encoder.encode_images = lambda prepared: np.full((len(prepared), 3), np.nan, np.float32)
    with pytest.raises(FeatureStoreError, match="--decode-in threads"):
        for _ in stream(tmp_path, todos(), [lane(encoder)], n_workers=2, decode_in=PROCESSES):
            pass


def test_known_content_is_not_decoded_in_processes_either(tmp_path, write_image, monkeypatch):
    monkeypatch.setattr(decode_ahead, "THREADS_MEANWHILE", False)
    todos = images(tmp_path, write_image, 6)
    contents = [(tmp_path / f"{i}.png").read_bytes() for i in range(6)]
    hashes = [hashlib.sha256(one).hexdigest() for one in contents]
    (tmp_path / "2.png").write_bytes(b"garbage that is known")
    known = {hashes[1], hashlib.sha256(b"garbage that is known").hexdigest()}
    # Begins as a hash that is wanted: eight bytes are compared, and then this process decodes.
    known.add(hashes[4][:16] + "0" * 48)
    clock = Clock()
    found = run(
        tmp_path, todos, ForProcesses(), known=[known], n_workers=2, decode_in=PROCESSES,
        clock=clock,
    )  # fmt: skip
    assert [found[row].is_known for row in range(6)] == [False, True, True, False, False, False]
    assert found[4].vector.tolist() == [4, 0, 0]
    assert clock.items["decode"] == 4


def test_a_process_that_cannot_start_is_named(tmp_path, write_image, monkeypatch):
    monkeypatch.setattr(decode_ahead, "THREADS_MEANWHILE", False)
    todos = images(tmp_path, write_image, 3)
    with pytest.raises(FeatureStoreError, match="could not start"):
        run(tmp_path, todos, ForProcesses(Fragile()), n_workers=2, decode_in=PROCESSES)
    assert not decode_ahead.can_travel(threading.Lock())
    assert decode_ahead.can_travel(np.asarray, lambda image: image)


class Fragile:
    def __call__(self, image):
        return np.asarray(image)

    def __reduce__(self):
        return int, ("no number",)


def test_processes_end_when_their_parent_is_killed(tmp_path, write_image):
    images(tmp_path, write_image, 1)
    code = f"""
import os
import numpy as np
from featurestore.pipeline import decode_ahead as pictures
from featurestore.sources.reading import Reader
pictures.THREADS_MEANWHILE = False
def leaves_its_number(image):
    open(os.path.join({str(tmp_path)!r}, "of-" + str(os.getpid())), "w").close()
    return np.asarray(image)
places = (("s", "0.png", [True]) for _ in range(10**9))
for _ in pictures.in_processes(
    places, lambda one: one, {{"s": Reader("folder", {str(tmp_path)!r})}},
    [(None, leaves_its_number)], n_workers=2, window=lambda: 8,
):
    pass
"""

    def is_there(number):
        stat = Path(f"/proc/{number}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as parent:
        try:
            deadline = time.monotonic() + 60
            while len(children := [int(one.name[3:]) for one in tmp_path.glob("of-*")]) < 2:
                assert time.monotonic() < deadline, "two processes never worked"
                time.sleep(0.1)
        finally:
            parent.kill()
    deadline = time.monotonic() + 30
    while any(map(is_there, children)):
        assert time.monotonic() < deadline, "a process outlived its parent"
        time.sleep(0.2)


def test_processes_stop_at_once_when_the_run_does(tmp_path, write_image, monkeypatch):
    monkeypatch.setattr(decode_ahead, "THREADS_MEANWHILE", False)
    images(tmp_path, write_image, 1)

    flag = tmp_path / "from now on"

    def slow(image):
        time.sleep(5 if flag.exists() else 0)
        return np.asarray(image)

    todos = (Todo(i, "s", "0.png", None) for i in range(10_000))
    lanes = [lane(ForProcesses(slow), size=64)]
    outcomes = stream(tmp_path, todos, lanes, n_workers=2, decode_in=PROCESSES)
    next(outcomes)
    flag.touch()
    started = time.perf_counter()
    outcomes.close()
    assert time.perf_counter() - started < 30  # a picture of 5 s is under way, not a chunk of 80


def test_a_view_with_nothing_to_do_does_not_make_known_content_unknown(
    tmp_path, write_image, monkeypatch
):
    monkeypatch.setattr(decode_ahead, "THREADS_MEANWHILE", False)
    images(tmp_path, write_image, 3)
    hashes = {hashlib.sha256((tmp_path / f"{i}.png").read_bytes()).hexdigest() for i in range(3)}
    todos = [Todo(i, "s", f"{i}.png", None, (1,)) for i in range(3)]
    clock = Clock()
    lanes = [lane(ForProcesses(), views=(1,))]
    found = list(
        stream(
            tmp_path, todos, lanes, known=[frozenset(), hashes], n_workers=2,
            decode_in=PROCESSES, clock=clock,
        )
    )  # fmt: skip
    assert [one.is_known for one in found] == [True] * 3
    assert clock.items["decode"] == 0
