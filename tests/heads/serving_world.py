"""What the tests of the server share: a store, heads, and a server in a thread."""

from __future__ import annotations

import base64
import io
import json
import socket
from contextlib import contextmanager
from threading import Thread

import httpx2
import numpy as np
from PIL import Image

from heads.serving.limits import Limits
from heads.serving.server import ServeOptions, Server

TOPICS = {
    "food": "bread apple cheese soup pasta salad rice cake egg fish",
    "music": "piano guitar song drum violin choir opera jazz band flute",
    "<b>travel</b>": "train airport hotel ticket ship beach passport road bus map",
}
TEXTS = [f"the {a} and the {b}" for words in TOPICS.values()
         for a, b in zip(words.split(), words.split()[3:], strict=False)]  # fmt: skip


def picture(seed: int, level: int = 120) -> bytes:
    """Return a PNG of noise around a level."""
    pixels = np.random.default_rng(seed).normal(level, 40, (40, 40, 3)).clip(0, 255)
    sink = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def write_world(folder):
    """Write 60 texts and 40 pictures; return the table and the folder of pictures."""
    lines = ["id,words,topic"]
    for n in range(60):
        topic = list(TOPICS)[n % 3]
        words = TOPICS[topic].split()
        lines.append(
            f"t{n:02d},the {words[n // 3 % 10]} and the {words[(n // 3 + 1) % 10]},{topic}"
        )
    table = folder / "texts.csv"
    table.write_text("\n".join(lines) + "\n")
    for kind, level in (("dark", 60), ("light", 190)):
        for n in range(20):
            path = folder / "photos" / kind / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(n, level))
    return table, folder / "photos"


@contextmanager
def serving(heads, *, store=None, **options):
    """Run a server in a thread; yield it with a client. Keywords of `Limits` are its limits."""
    limits = {name: options.pop(name) for name in list(options) if hasattr(Limits, name)}
    server = Server(heads, ServeOptions(port=0, limits=Limits(**limits), **options), store=store)
    address = server.listen()
    thread = Thread(target=server.run)
    thread.start()
    try:
        with httpx2.Client(base_url=address, timeout=20) as client:
            yield server, client
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


def as_images(*contents):
    """Return the JSON of a request with pictures."""
    return {"images": [base64.b64encode(one).decode() for one in contents]}


def raw(client, sent, *, wait_s=5.0):
    """Send bytes as they are and return all that comes back, until the connection ends."""
    with socket.create_connection((client.base_url.host, client.base_url.port)) as one:
        one.settimeout(wait_s)
        one.sendall(sent)
        found = b""
        try:
            while part := one.recv(65536):
                found += part
        except (TimeoutError, ConnectionError):
            pass
        return found


def post(path, body, *headers):
    """Return the bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def as_json(value, *headers):
    """Return the bytes of a request for /predict with a JSON body, or any bytes in its place."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    known = ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return post("/predict", body, *known, *headers)
