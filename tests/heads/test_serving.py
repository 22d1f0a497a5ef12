"""The server: what it answers, under load, to hostile requests, and when it stops."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import struct
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import httpx2
import numpy as np
import pytest
from PIL import Image

import heads
from featurestore.cli import run
from featurestore.encoders.images import size_of
from featurestore.errors import BadName, MissingExtra
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.saved.serve import predict_items
from heads.serving.lane import Lane
from tests.heads.serving_world import (
    TEXTS,
    as_images,
    as_json,
    picture,
    post,
    raw,
    serving,
    write_world,
)

TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of texts and pictures, and a head on each, with prediction sets."""
    folder = tmp_path_factory.mktemp("serving")
    table, photos = write_world(folder)
    store = open_store(folder / "store", create=True)
    options = SourceOptions(text="words", label=("topic",), id="id")
    store.embed([table], dataset="texts", encoders=["builtin:tiny-text"], source_options=options)
    pictures = ["baseline:pixels", "builtin:tiny-image"]
    store.embed([photos], dataset="photos", encoders=pictures)
    made = {
        "topics": heads.fit(store.view("texts", "builtin:tiny-text"), "ridge", coverage=0.9),
        "photos": heads.fit(store.view("photos", "pixels"), "prototype"),
    }
    return store, made, folder


@pytest.fixture(scope="module")
def served(world):
    """One server for all tests that do not end it."""
    store, made, folder = world
    with serving(made, store=store, allow_folder=folder / "photos") as (server, client):
        yield server, client


def labels(answer):
    assert answer.status_code == 200, answer.text
    return [one.get("predicted", one.get("error")) for one in answer.json()["predictions"]]


def test_texts_are_answered_as_the_head_answers(world, served):
    _, made, _ = world
    head = heads.load_bundle(made["topics"].path)
    expected = predict_items(head, TEXTS)
    found = served[1].post("/predict", json={"texts": TEXTS}).json()
    rows = found["predictions"]
    assert [one["predicted"] for one in rows] == expected.predicted.tolist()
    shares = [[one["probabilities"][name] for name in expected.classes] for one in rows]
    np.testing.assert_allclose(shares, expected.probabilities, atol=2e-6)
    names = np.array(expected.classes)
    assert [one["set"] for one in rows] == [names[row].tolist() for row in expected.in_set]
    unlike = [one["unlike_training"] for one in rows]
    np.testing.assert_allclose(unlike, expected.unlike.shares, atol=2e-6)
    assert [one["is_unlike"] for one in rows] == expected.unlike.is_unlike.tolist()
    assert found["unlike_from"] == pytest.approx(expected.unlike.least, abs=1e-6)
    assert found["versions"] == {
        "head": head.head_id,
        "head_sha256": head.card.head_sha256,
        "encoder_fingerprint": head.card.fingerprint,
        "featurestore": "0.2.0",
    }


def test_a_picture_may_come_in_four_ways(world, served):
    _, made, folder = world
    _, client = served
    content = picture(3, 190)
    (expected,) = predict_items(made["photos"], [content]).predicted
    (folder / "photos" / "late.png").write_bytes(content)
    ask = {"head": "photos"}
    ways = [
        client.post("/predict", json={**as_images(content), **ask}),
        client.post("/predict", content=content, params=ask, headers={"Content-Type": "image/png"}),
        client.post("/predict", files={"file": ("a.png", content)}, data=ask),
        client.post("/predict", json={"paths": ["late.png"], **ask}),
        client.post("/predict", json={"paths": [str(folder / "photos" / "late.png")], **ask}),
    ]
    assert [labels(one) for one in ways] == [[expected]] * 5
    text = client.post("/predict", content="the piano", headers={"Content-Type": "text/plain"})
    assert labels(text) == ["music"]


def test_a_mix_of_two_encoders_is_answered_from_one_request(world):
    store, _, _ = world
    views = [store.view("photos", one) for one in ("pixels", "tiny-image")]
    mixed = heads.fit(views, "mix:ridge,prototype", save=False)
    contents = [picture(n, level) for n in range(3) for level in (60, 190)]
    expected = predict_items(mixed, contents)
    with serving({"mix": mixed}) as (_, client):
        found = client.post("/predict", json=as_images(*contents)).json()["predictions"]
        vectors = client.post(
            "/embed", json={**as_images(*contents), "encoder": str(views[0].spec)}
        )
    assert [one["predicted"] for one in found] == expected.predicted.tolist()
    given = [list(one["probabilities"].values()) for one in found]
    np.testing.assert_allclose(given, expected.probabilities, atol=2e-6)
    given = [one["vector"] for one in vectors.json()["vectors"]]
    np.testing.assert_allclose(given, views[0].encode(contents), atol=1e-6)


def test_a_bad_item_costs_only_itself_and_doubt_can_be_kept_back(served):
    _, client = served
    asked = as_images(picture(1, 60), b"junk", picture(2, 190))
    first, bad, last = labels(client.post("/predict", json={**asked, "head": "photos"}))
    assert (first, last) == ("dark", "light")
    assert bad.startswith("not an image that we can read")
    answer = client.post("/predict", json={"texts": ["piano bread train"], "min_confidence": 1})
    assert labels(answer) == [None]


def test_thirty_two_clients_at_once_get_each_its_own_answer(world, served):
    _, made, _ = world
    server, client = served
    lane = server.desk.served.head("topics").lane
    sizes, work = [], lane.batches.work
    lane.batches.work = lambda asked: (sizes.append(len(asked)), time.sleep(0.005), work(asked))[2]
    expected = dict(zip(TEXTS, predict_items(made["topics"], TEXTS).confidence, strict=True))

    def ask(number):
        with httpx2.Client(base_url=client.base_url, timeout=20) as own:
            for text in TEXTS[number % 7 :: 7]:
                (row,) = own.post("/predict", json={"texts": [text]}).json()["predictions"]
                assert row["confidence"] == pytest.approx(expected[text], abs=2e-6)
        return True

    try:
        with ThreadPoolExecutor(32) as pool:
            assert all(pool.map(ask, range(32)))
    finally:
        lane.batches.work = work
    assert max(sizes) > 4  # they went through together
    assert server.desk.room.taken == 0
    assert server.app.reader.held.taken == 0


def png_of(width, height):
    """Return a PNG whose header claims a size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"\xff\xfe{", 400, "not JSON"),
        (b'{"texts": ["a"], "min_confidence": NaN}', 400, "NaN is not JSON"),
        (b"[1]", 422, "must be a JSON object"),
        ({"texts": "abc"}, 422, "must be a list"),
        ({"texts": [1]}, 422, "must be a list"),
        ({"texts": []}, 422, "nothing was sent"),
        ({}, 422, "nothing was sent"),
        ({"text": ["a"]}, 422, "no key 'text': did you mean 'texts'?"),
        ({"texts": ["a"], "min_confidense": 0.9}, 422, "did you mean 'min_confidence'?"),
        ({"texts": ["a"], "images": []}, 422, "texts and images"),
        ({"texts": ["a"], "min_confidence": True}, 422, "min_confidence"),
        ({"texts": ["a"], "head": 3}, 422, "head is int"),
        ({"texts": ["a"], "head": "../x"}, 404, "no head"),
        (b'{"texts": ["\\ud800"]}', 422, "half a character"),
        ({"texts": ["a"] * 257}, 413, "256 items"),
        ({"texts": ["a" * 200_001]}, 413, "200,000 characters"),
        ({"images": ["not base64"]}, 422, "base64"),
        ({"images": ["aaaa"]}, 422, "cannot be read here"),
        ({"head": "photos", "texts": ["a"]}, 422, "texts cannot be read here"),
        ({"head": "photos", **as_images(png_of(60_000, 60_000))}, 422, "over the limit"),
        ({"head": "photos", **as_images(b"")}, 422, "empty"),
        ({"head": "photos", "paths": ["../texts.csv"]}, 403, "not inside"),
        ({"head": "photos", "paths": ["/etc/passwd"]}, 403, "not inside"),
        ({"head": "photos", "paths": ["dark/../../texts.csv"]}, 403, "not inside"),
        ({"head": "photos", "paths": ["a\0b"]}, 403, "not inside"),
        ({"head": "photos", "paths": ["dark"]}, 404, "not a file"),
        ({"head": "photos", "paths": ["absent.png"]}, 404, "not a file"),
    ],
)  # fmt: skip
def test_a_hostile_body_is_refused_in_one_line(served, body, status, words):
    server, client = served
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"}
    answer = client.post("/predict", content=content, headers=sent)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert server.app.reader.held.taken == server.desk.room.taken == 0
    assert labels(client.post("/predict", json={"texts": ["the piano"]})) == ["music"]


ZIPPED = gzip.compress(b"a", mtime=0)  # the same in each process of the suite


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain", "Content-Encoding": "gzip"}, ZIPPED, 415),
        ({"Content-Type": "text/html"}, b"<p>", 415),
        ({}, b"x", 415),
        ({"Content-Type": "text/plain"}, b"\xff", 422),
        ({"Content-Type": "multipart/form-data"}, b"x", 400),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\nx", 422),
        ({"Content-Type": "image/png"}, b"x", 422),
    ],
)  # fmt: skip
def test_other_kinds_of_bodies_are_refused(served, headers, content, status):
    answer = served[1].post("/predict", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}


def test_sizes_are_refused_before_or_while_they_are_read(world):
    _, made, _ = world
    with serving(made, body_bytes=1000, held_bytes=3000) as (server, client):
        claimed = as_json(b"{", "X: 1").replace(b"Length: 1", b"Length: 9999999999")
        assert raw(client, claimed).startswith(b"HTTP/1.1 413")
        chunks = b"".join(b"64\r\n" + b"a" * 100 + b"\r\n" for _ in range(12))
        sent = post("/predict", chunks, "Content-Type: text/plain", "Transfer-Encoding: chunked")
        assert raw(client, sent).startswith(b"HTTP/1.1 413")
        long = b"GET /health HTTP/1.1\r\nX: " + b"a" * 50_000
        assert raw(client, long).startswith(b"HTTP/1.1 400")
        assert b"400" in raw(client, b"\x16\x03\x01\x02 no http \r\n\r\n")[:20]
        server.app.reader.held.take(2500)  # others hold the rest
        answer = client.post("/predict", json={"texts": ["a" * 600]})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        server.app.reader.held.give_back(2500)
        assert client.post("/predict", json={"texts": ["a" * 600]}).status_code == 200


def test_what_a_body_becomes_in_memory_is_counted_before_it_is_read(world):
    """A list in JSON takes some 60 bytes where its text takes three."""
    _, made, _ = world
    with serving(made, body_bytes=2 << 20, held_bytes=8 << 20) as (server, client):
        lists = b'{"texts": [' + b"[]," * 300_000 + b"[]]}"
        sent = {"Content-Type": "application/json"}
        answer = client.post("/predict", content=lists, headers=sent)
        assert (answer.status_code, "more memory" in answer.json()["error"]) == (413, True)
        assert server.app.reader.held.taken == 0
        assert client.post("/predict", json={"texts": ["the piano"]}).status_code == 200


def test_files_of_the_allowed_folder_are_held_like_bodies(world, tmp_path):
    _, made, _ = world
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(b"x" * 400_000)
    with serving(made, held_bytes=1 << 20, allow_folder=tmp_path) as (server, client):
        body = {"head": "photos", "paths": [f"{n}.png" for n in range(3)]}
        assert client.post("/predict", json=body).status_code == 413
        assert server.app.reader.held.taken == 0
        body["paths"] = ["0.png"]
        assert client.post("/predict", json=body).status_code == 422  # no picture, but read


def test_links_and_pipes_in_the_allowed_folder_lead_nowhere(world, served, tmp_path):
    folder = world[2] / "photos"
    (tmp_path / "secret.png").write_bytes(picture(1))
    for name, target in (("out.png", tmp_path / "secret.png"), ("out", tmp_path)):
        (folder / name).symlink_to(target)
    (folder / "in.png").symlink_to(folder / "dark" / "0.png")
    os.mkfifo(folder / "pipe.png")
    try:
        for name in ("out.png", "out/secret.png", "in.png", "pipe.png"):
            answer = served[1].post("/predict", json={"paths": [name], "head": "photos"})
            assert answer.status_code == 404, name
    finally:
        for name in ("out.png", "out", "in.png", "pipe.png"):
            (folder / name).unlink()


def test_without_a_folder_no_path_is_read(world):
    with serving(world[1]) as (_, client):
        asked = {"paths": [str(world[2] / "photos" / "dark" / "0.png")], "head": "photos"}
        assert client.post("/predict", json=asked).status_code == 403


def test_a_token_is_needed_beyond_this_machine_and_asked_for_everywhere(world):
    made = world[1]
    with pytest.raises(BadName, match="token"):
        serving(made, host="0.0.0.0").__enter__()
    with pytest.raises(BadName, match="16 ASCII"):
        serving(made, token="short").__enter__()
    with serving(made, token=TOKEN) as (_, client):
        assert client.get("/health").json() == {"status": "UP", "model_class": "featurestore"}
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"},
                        {"Authorization": f"Digest {TOKEN}"}):  # fmt: skip
            for path in ("/heads", "/docs", "/openapi.json"):
                assert client.get(path, headers=headers).status_code == 401
            answer = client.post("/predict", json={"texts": ["a"]}, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/predict", json={"texts": ["a"]}, headers=bearer).status_code == 200
        assert client.get("/heads", auth=("anyone", TOKEN)).status_code == 200


def test_pages_of_other_sites_get_nothing(served):
    _, client = served
    own = f"{client.base_url.host}:{client.base_url.port}"
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = client.post("/predict", json={"texts": ["a"]}, headers=headers)
        assert answer.status_code == 403, headers
        assert "access-control-allow-origin" not in answer.headers
    same = client.post("/predict", json={"texts": ["a"]}, headers={"Origin": f"http://{own}"})
    assert same.status_code == 200


def test_the_page_of_addresses_loads_nothing_and_runs_nothing(served):
    _, client = served
    page = client.get("/", follow_redirects=True)
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in page.text
    assert "<b>travel" not in page.text  # a class of the card
    assert "&lt;b&gt;travel" in page.text
    assert "src=" not in page.text
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/embed", "/heads", "/health", "/predict", "/search"}
    assert [one["head"] for one in client.get("/heads").json()["heads"]]


def test_slow_clients_are_let_go(world):
    with serving(world[1], idle_s=0.4, body_s=0.4, answer_s=1) as (server, client):
        started = time.monotonic()
        half_a_header = raw(client, b"POST /predict HTTP/1.1\r\nHost: loc")
        half_a_body = raw(client, as_json(b'{"texts"').replace(b"Length: 8", b"Length: 80"))
        nothing = raw(client, b"")
        assert half_a_header == nothing == b""
        assert half_a_body.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 8
        time.sleep(0.2)
        assert server.app.reader.held.taken == 0
        assert client.get("/health").status_code == 200


def test_more_connections_than_there_is_room_for_do_not_stop_the_others(world):
    import socket

    with serving(world[1], connections=12) as (server, client):
        assert client.get("/health").status_code == 200
        place = (client.base_url.host, client.base_url.port)
        idle = [socket.create_connection(place) for _ in range(60)]
        time.sleep(0.3)
        assert len(server.server_state.connections) <= 12
        for one in idle[:30]:
            with contextlib.suppress(OSError):
                one.sendall(b"POST /predict HTTP/1.1\r\nHost: localh")  # and no more
        for _ in range(20):  # idle and slow ones end, not those that ask
            assert client.post("/predict", json={"texts": ["a"]}).status_code == 200
        client.close()
        with httpx2.Client(base_url=client.base_url) as anew:
            assert anew.post("/predict", json={"texts": ["a"]}).status_code == 200
        for one in idle:
            one.close()


def test_a_full_queue_says_so_and_a_late_answer_is_given_up(world, monkeypatch):
    begun, go_on = Event(), Event()
    work = Lane._work

    def slowly(self, asked):
        begun.set()
        go_on.wait(10)
        return work(self, asked)

    monkeypatch.setattr(Lane, "_work", slowly)
    with serving(world[1], waiting=4, answer_s=0.8) as (server, client):
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/predict", json={"texts": ["a"] * 3})
            begun.wait(5)
            full = client.post("/predict", json={"texts": ["a", "b"]})
            assert (full.status_code, full.headers["retry-after"]) == (429, "1")
            assert first.result().status_code == 503
        assert server.desk.room.taken == 0
        go_on.set()
        assert client.post("/predict", json={"texts": ["a"] * 4}).status_code == 200


def test_a_fault_inside_is_said_without_its_inside(world, monkeypatch, caplog):
    def fails(self, asked):
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(Lane, "_work", fails)
    with serving(world[1]) as (_, client):
        answer = client.post("/predict", json={"texts": ["a"]})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "/secret/place" in caplog.text


def test_a_stop_loses_no_request_that_was_taken(world):
    """Clients ask without a pause: each gets a whole answer, or no connection, and never half."""
    answered, refused, cut = [], [], []
    with serving(world[1]) as (server, client):
        stop = Event()

        def ask():
            with httpx2.Client(base_url=client.base_url, timeout=20) as own:
                while not stop.is_set():
                    try:
                        found = own.post("/predict", json={"texts": ["the piano"]})
                    except (
                        httpx2.ConnectError,
                        httpx2.RemoteProtocolError,
                        httpx2.ReadError,
                    ) as no:
                        refused.append(no)
                        return
                    (answered if labels(found) == ["music"] else cut).append(found)

        threads = [Thread(target=ask) for _ in range(8)]
        for one in threads:
            one.start()
        while len(answered) < 100:
            time.sleep(0.01)
        server.stop()
        for one in threads:
            one.join(10)
        stop.set()
    assert server.app.n_taken == len(answered)
    assert len(refused) == 8
    assert not cut


def test_search_sees_what_is_embedded_while_it_is_served(world, tmp_path):
    store, made, _ = world
    with serving(made, store=store) as (_, client):

        def nearest(**asked):
            found = client.post("/search", json={"k": 2, **asked})
            return [one["item_id"] for one in found.json()["neighbors"][0]]

        words = "the zebra and the volcano"
        assert "new" not in nearest(dataset="texts", texts=[words])
        (tmp_path / "more.csv").write_text(f"id,words,topic\nnew,{words},food\n")
        options = SourceOptions(text="words", label=("topic",), id="id")
        encoders = ["builtin:tiny-text"]
        store.embed([tmp_path / "more.csv"], dataset="texts", encoders=encoders,
                    source_options=options)  # fmt: skip
        assert nearest(dataset="texts", texts=[words])[0] == "new"
        view = store.view("texts", "tiny-text")
        assert nearest(dataset="texts", item="new") == view.neighbors("new", k=2).ids[0].tolist()
        photo = {"dataset": "photos", "encoder": "pixels", **as_images(picture(4, 60))}
        assert nearest(**photo)[0] == "dark/4.png"
        for asked, status in (
            ({"dataset": "../texts", "texts": ["a"]}, 404),
            ({"dataset": "texts", "item": "absent"}, 404),
            ({"dataset": "photos", "texts": ["a"], "encoder": "pixels"}, 422),
            ({"dataset": "texts", "texts": ["a"], "k": 0}, 422),
            ({"texts": ["a"]}, 422),
        ):
            answer = client.post("/search", json=asked)
            assert answer.status_code == status, answer.text


def test_a_store_that_changes_under_the_server_is_read_as_it_is(tmp_path):
    """Compacted, vacuumed, a row deleted, dropped, made anew with the same version numbers."""
    store = open_store(tmp_path / "store", create=True)
    options = SourceOptions(text="words", id="id")

    def embed(*words):
        rows = "".join(f"{word[:1]},{word}\n" for word in words)
        (tmp_path / "t.csv").write_text(f"id,words\n{rows}")
        store.embed([tmp_path / "t.csv"], dataset="t", encoders=["baseline:hashing"],
                    source_options=options)  # fmt: skip

    def fs(*words):
        assert run([*words, "--store", str(tmp_path / "store")]) == 0

    embed("apple pie", "blue sea", "car")
    with serving({}, store=store) as (_, client):

        def nearest(words):
            answer = client.post("/search", json={"dataset": "t", "texts": [words], "k": 1})
            found = answer.json().get("neighbors")
            return answer.status_code, found and found[0][0]["item_id"]

        assert nearest("apple pie") == (200, "a")
        fs("store", "compact", "t")
        fs("store", "vacuum", "t", "--older-than", "0")
        assert nearest("blue sea") == (200, "b")
        fs("store", "delete", "t", "a", "--yes")
        assert nearest("apple pie")[1] != "a"
        fs("store", "drop", "t", "--yes")
        assert nearest("car")[0] == 404
        embed("zebra", "yellow", "x")
        assert nearest("zebra") == (200, "z")
        snapshot = str(store.dataset("t").views()[0].now().snapshot)
        fs("store", "drop", "t", "--yes")
        embed("melon", "nut", "owl")
        assert str(store.dataset("t").views()[0].now().snapshot) == snapshot
        assert nearest("melon") == (200, "m")


def test_serving_connects_to_nobody(world):
    asked = []
    is_on = True

    def watch(event, arguments):
        if is_on and event in ("socket.connect", "socket.getaddrinfo"):
            asked.append(arguments[1] if event == "socket.connect" else arguments[:2])

    sys.addaudithook(watch)
    with serving(world[1], store=world[0]) as (_, client):
        client.post("/predict", json={"texts": ["a"]})
        client.post("/predict", json={**as_images(picture(1)), "head": "photos"})
        client.post("/search", json={"dataset": "texts", "texts": ["a"]})
        own = (client.base_url.host, client.base_url.port)
    is_on = False
    assert set(asked) <= {own, (own[0], 0)}


def test_a_missing_package_is_named_with_the_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "heads.serving.server")
    with pytest.raises(MissingExtra, match=r"pip install 'featurestore\[serve\]'"):
        import heads.serving.server  # noqa: F401


def test_the_size_of_a_picture_is_read_from_its_header():
    sink = io.BytesIO()
    Image.new("RGB", (400, 300)).save(sink, "PNG")
    assert size_of(sink.getvalue()) == (400, 300)
