"""A round trip through a real Label Studio server on loopback; its exports are kept for the tests.

    python -m venv /tmp/venv-ls && /tmp/venv-ls/bin/pip install "label-studio==1.23.*"
    python -m tools.label_studio /tmp/venv-ls/bin/label-studio tests/data/label-studio

Two users decide as they would on the page: choices, several choices, a comment, a rating, a skip,
a change of our own decision. The suite replays what was exported (tests/test_label_studio.py).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from PIL import Image

import featurestore
from featurestore.curation.reviews import Action, Review
from featurestore.exchange import review_files
from featurestore.exchange.label_studio import served_folder
from featurestore.store.dataset import DataSet

PORT = 18232
WHEN = "2026-01-01T00:00:00+00:00"  # we decided before they did
TOKEN = "0123456789abcdef0123456789abcdef01234567"  # of a server that lives for a minute
INTERFACE = """<View><Text name="text" value="$text"/>
<Choices name="{label}" toName="text" choice="{several}">{choices}</Choices>
<TextArea name="why" toName="text"/><Rating name="stars" toName="text"/></View>"""
TOPICS = ["food", "music", 'a "new", one']
ITEMS = {
    "001": "a plain text", "01": 'a lone "quote\nand a line', "1": "naïve ☃, and more",
    "c": "the fourth", "e": "the fifth", "g": "the sixth",
}  # fmt: skip


@contextmanager
def server(program: str, pictures: Path, port: int = PORT, **more: str) -> Iterator[Server]:
    """Run a server with data of its own, from which nothing leaves, and end it.

    ``more`` are further settings of Label Studio.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "HOME": folder, "COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(pictures),
        }  # fmt: skip
        command = [
            program, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port),
            "--username", "ann@example.org", "--password", "on-loopback", "--user-token", TOKEN,
            "--enable-legacy-api-token", "--data-dir", folder, "--log-level", "ERROR",
        ]  # fmt: skip
        with (Path(folder) / "server.log").open("w") as log:
            process = subprocess.Popen(
                command, env=os.environ | settings | more, stdout=log, stderr=log
            )
        try:
            yield Server(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(20)


class Server:
    """The calls that the page makes."""

    def __init__(self, root: str) -> None:
        self.root = root
        for _ in range(300):
            try:
                self.ask("/health")
                return
            except OSError:
                time.sleep(1)
        raise TimeoutError("the server did not start in 300 s")

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Return the JSON that a call gives, or its text."""
        content = self.read(path, body, method).decode()
        return json.loads(content) if content.startswith(("{", "[")) else content

    def read(self, path: str, body: Any = None, method: str | None = None) -> bytes:
        """Return the bytes that a call gives."""
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.root + path, sent, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.code}: {error.read().decode()[:2000]}") from None

    def project(self, label: str, several: str, tasks: list[dict[str, Any]]) -> int:
        """Return a new project with tasks in it."""
        choices = "".join(f"<Choice value={quoteattr(one)}/>" for one in TOPICS)
        interface = INTERFACE.format(label=label, several=several, choices=choices)
        made = self.ask("/api/projects", {"title": "trip", "label_config": interface})
        self.ask(f"/api/projects/{made['id']}/import?return_task_ids=true", tasks)
        return int(made["id"])

    def tasks(self, project: int) -> dict[str, Any]:
        """Return the tasks of a project by the id of their item."""
        found = self.ask(f"/api/tasks?project={project}&fields=all&page_size=100")["tasks"]
        return {one["data"]["item_id"]: one for one in found}

    def export(self, project: int, kind: str) -> str:
        """Return an export, as its file."""
        path = f"/api/projects/{project}/export?exportType={kind}&download_all_tasks=true"
        found = self.ask(path)
        return found if isinstance(found, str) else json.dumps(found, indent=1, ensure_ascii=False)


def choice(label: str, *names: str) -> dict[str, Any]:
    """Return a result as the page sends it."""
    return {
        "id": "r1", "from_name": label, "to_name": "text", "type": "choices", "origin": "manual",
        "value": {"choices": list(names)},
    }  # fmt: skip


COMMENT = {"id": "r2", "from_name": "why", "to_name": "text", "type": "textarea",
           "origin": "manual", "value": {"text": ['because\nof "this"']}}  # fmt: skip
RATING = {"id": "r3", "from_name": "stars", "to_name": "text", "type": "rating",
          "origin": "manual", "value": {"rating": 3}}  # fmt: skip


def annotate(it: Server, project: int, label: str, is_several: bool) -> None:
    """Decide as two people would on the page."""
    tasks = it.tasks(project)
    email = f"bob-{label}@example.org"
    other = it.ask("/api/users/", {"email": email, "username": label, "password": "on-loopback"})

    def add(item: str, *result: dict[str, Any], **more: Any) -> None:
        it.ask(f"/api/tasks/{tasks[item]['id']}/annotations/", {"result": list(result)} | more)

    def own(item: str, body: Any, method: str = "PATCH") -> None:
        it.ask(f"/api/annotations/{tasks[item]['annotations'][0]['id']}/", body, method)

    one, two = (["music"], ["food", "music"]) if is_several else (["food"], ["music"])
    own("001", {"result": tasks["001"]["annotations"][0]["result"]})  # touched, not changed
    own("01", {"result": [COMMENT, choice(label, *one)]})
    add("1", COMMENT, choice(label, *two), completed_by=other["id"])
    add("c", choice(label, "food"))
    add("c", choice(label, TOPICS[2]), completed_by=other["id"])
    own("e", None, "DELETE")
    add("e", choice(label, "music"), was_cancelled=True)
    own("g", None, "DELETE")
    add("g", RATING, COMMENT)


def show_pictures(it: Server, folder: Path) -> None:
    """Ask for a picture at the address that its task gives; raise if it is not that file."""
    folder.mkdir()
    file = folder / "naïve 100%.png"
    Image.new("RGB", (32, 32), "teal").save(file)
    place = folder.parent / "picture-store"
    embed(folder, place, "-e", "baseline:pixels")
    dataset = featurestore.open_store(place).dataset("t")
    [item] = dataset.items(["item_id"]).column("item_id").to_pylist()
    dataset.add_reviews([Review(item, Action.EXCLUDE, "")])
    sent = folder.parent / "pictures.json"
    review_files.write(sent, dataset.reviews(), dataset)
    interface = "<View><Image name='image' value='$image'/></View>"
    made = it.ask("/api/projects", {"title": "pictures", "label_config": interface})
    storage = {"project": made["id"], "path": served_folder(dataset, [item]), "title": "files",
               "use_blob_urls": True}  # fmt: skip
    it.ask("/api/storages/localfiles/", storage)
    it.ask(f"/api/projects/{made['id']}/import", json.loads(sent.read_text()))
    address = it.tasks(made["id"])[item]["data"]["image"]
    if it.read(address) != file.read_bytes():
        raise RuntimeError(f"{address} is not the picture")


def embed(source: Path, store: Path, *options: str) -> None:
    """Embed a source as the data set ``t``."""
    from featurestore.cli import run

    command = ["embed", str(source), "--dataset", "t", *options, "--store", str(store)]
    if run(command):
        raise RuntimeError(f"{source} could not be embedded")


def decided(folder: Path, label: str) -> DataSet:
    """Return a data set of the items, with a decision on each."""
    names = ["food", "music|food" if label == "tags" else "music"]
    table = folder / "items.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = [(item, text, names[n % 2]) for n, (item, text) in enumerate(ITEMS.items())]
        csv.writer(file).writerows([("id", "words", label), *rows])
    columns = ["--text", "words", "--label", label, "--id", "id"]
    embed(table, folder / "store", *columns, "-e", "builtin:tiny-text")
    found = featurestore.open_store(folder / "store").dataset("t")
    found.add_reviews(
        [
            Review("001", Action.CONFIRM, label, when=WHEN, note='"sure"\nyes', id="own001"),
            Review("01", Action.CONFIRM, label, when=WHEN, id="own01"),
            Review("1", Action.EXCLUDE, label, when=WHEN, id="own1"),
            Review("c", Action.RELABEL, label, "music", when=WHEN, id="ownc"),
            Review("e", Action.RELABEL, label, "food", when=WHEN, id="owne"),
            Review("g", Action.CONFIRM, label, when=WHEN, id="owng"),
        ],
        who="ann",
    )
    return found


def main(program: str, target: Path) -> None:
    """Write the exports of two projects: a class each, and several labels each."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, server(program, Path(folder)) as it:
        show_pictures(it, Path(folder) / "it's a folder")
        for label, several in (("topic", "single"), ("tags", "multiple")):
            place = Path(folder) / label
            place.mkdir()
            dataset = decided(place, label)
            review_files.write(place / "sent.json", dataset.reviews(), dataset)
            project = it.project(label, several, json.loads((place / "sent.json").read_text()))
            annotate(it, project, label, several == "multiple")
            for kind, ending in (("JSON", "json"), ("JSON_MIN", "min.json"), ("CSV", "csv")):
                (target / f"{label}.{ending}").write_text(it.export(project, kind))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
