r"""Real Label Studio asks `featurestore serve --label-studio`; its requests are kept for the tests.

    python -m venv /tmp/venv-ls && /tmp/venv-ls/bin/pip install "label-studio==1.23.*"
    python -m tools.label_studio_backend /tmp/venv-ls/bin/label-studio \
        tests/data/label-studio/requests.json

A project with a labeling interface is connected; predictions are fetched, shown and ordered;
labels are submitted, changed and deleted, and each makes a new head. What Label Studio sent is
written, without its access token (tests/heads/test_label_studio_backend.py replays it).
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Thread
from typing import Any

import heads
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.serving.server import ServeOptions, Server
from tools.label_studio import Server as LabelStudio
from tools.label_studio import choice, server

PORT = 18233
INTERFACE = """<View><Text name="text" value="$text"/><Choices name="topic" toName="text">
<Choice value="food"/><Choice value="music"/><Choice value="travel"/></Choices></View>"""
TOPICS = {
    "food": "bread apple cheese soup pasta salad rice cake egg fish",
    "music": "piano guitar song drum violin choir opera jazz band flute",
    "travel": "train airport hotel ticket ship beach passport road bus map",
}
N_OPEN = 10  # items without a label


def write_texts(path: Path) -> dict[str, str]:
    """Write sixty texts of three topics, the last ten without a label; return texts by id."""
    lines, texts = ["id,words,topic"], {}
    for n in range(60):
        topic = list(TOPICS)[n % 3]
        words = TOPICS[topic].split()
        texts[f"t{n:02d}"] = f"the {words[n // 3 % 10]} and the {words[(n // 3 + 1) % 10]}"
        lines.append(f"t{n:02d},{texts[f't{n:02d}']},{topic if n < 60 - N_OPEN else ''}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return texts


class Recorder:
    """An ASGI application that keeps what it is asked."""

    def __init__(self, app: Any) -> None:
        self.app, self.found = app, []  # type: ignore[var-annotated]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and keep its body."""
        body = b""

        async def kept() -> Any:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.found.append(
                    {
                        "method": scope["method"],
                        "path": scope["path"],
                        "body": _scrubbed(json.loads(body)) if body else None,
                        "status": message["status"],
                    }
                )
            await send(message)

        await self.app(scope, kept, noted)


def _scrubbed(value: Any) -> Any:
    """Return JSON without tokens, at any depth."""
    if isinstance(value, list):
        return [_scrubbed(one) for one in value]
    if isinstance(value, dict):
        return {key: "" if "token" in key else _scrubbed(one) for key, one in value.items()}
    return value


def run(it: LabelStudio, ours: Server, address: str, texts: dict[str, str]) -> None:
    """Do what a team does: connect, look at predictions, label, change, delete."""
    assert ours.label_studio is not None
    trainer, dataset = ours.label_studio.retrainer, ours.label_studio.dataset
    project = it.ask("/api/projects", {"title": "ours", "label_config": INTERFACE})["id"]
    tasks = [{"data": {"item_id": key, "text": one}} for key, one in texts.items()][-N_OPEN:]
    it.ask(f"/api/projects/{project}/import", tasks)
    made = it.ask("/api/ml", {"project": project, "url": f"{address}/label-studio", "title": "o"})
    print("connected:", made["state"], made["model_version"])
    everything = {"selectedItems": {"all": True, "excluded": []}, "project": project}
    path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}"
    print(it.ask(path, everything))
    shown = {key: one["predictions"] for key, one in it.tasks(project).items()}
    assert all(len(one) == 1 for one in shown.values()), shown
    for key, (one,) in shown.items():
        said = one["result"][0]["value"]["choices"]
        print(key, said, round(one["score"], 3), one["model_version"])
    by_id = {key: one["id"] for key, one in it.tasks(project).items()}
    keys = list(by_id)

    def submitted(count: int) -> None:
        for _ in range(200):
            if len([one for one in dataset.reviews() if one.id.startswith("ls-")]) >= count:
                break
            time.sleep(0.1)
        else:
            raise TimeoutError(f"{count} labels did not arrive")
        assert trainer.wait(120)

    ids = []
    for n, key in enumerate(keys[:3]):
        answer = {"result": [choice("topic", list(TOPICS)[n])]}
        ids.append(it.ask(f"/api/tasks/{by_id[key]}/annotations/", answer)["id"])
        submitted(n + 1)
    it.ask(f"/api/annotations/{ids[0]}/", {"result": [choice("topic", "travel")]}, "PATCH")
    submitted(4)
    it.ask(f"/api/ml/{made['id']}/train", {})
    it.ask(f"/api/annotations/{ids[1]}/", None, "DELETE")
    time.sleep(3)
    assert trainer.wait(120)
    assert trainer.error == "", trainer.error
    print("heads made:", trainer.n_runs)
    print(it.ask(path, everything))
    versions = {one["model_version"] for task in it.tasks(project).values()
                for one in task["predictions"]}  # fmt: skip
    print("versions shown:", versions)
    assert len(versions) == 2


# Without these Label Studio asks no server of its own machine.
LOCAL = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}


def _label_studio(program: str, folder: Path) -> AbstractContextManager[LabelStudio]:
    """Return a server that runs already, where an address is given, or start one."""
    if program.startswith("http"):
        return nullcontext(LabelStudio(program))
    return server(program, folder, **LOCAL)


def main(program: str, target: Path) -> None:
    """Run it all, and write what Label Studio sent."""
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = write_texts(folder / "texts.csv")
        store = open_store(folder / "store", create=True)
        options = SourceOptions(text="words", label=("topic",), id="id")
        store.embed([folder / "texts.csv"], dataset="texts", encoders=["builtin:tiny-text"],
                    source_options=options)  # fmt: skip
        head = heads.fit(store.view("texts", "builtin:tiny-text"), "ridge")
        ours = Server({"ridge": head}, ServeOptions(port=PORT, label_studio="texts"), store=store)
        recorder = Recorder(ours.config.app)
        ours.config.app = recorder
        address = ours.listen()
        thread = Thread(target=ours.run)
        thread.start()
        try:
            with _label_studio(program, folder) as it:
                run(it, ours, address, texts)
        finally:
            ours.stop()
            thread.join()
        for one in store.dataset("texts").reviews():
            print(one)
        target.write_text(json.dumps(recorder.found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
