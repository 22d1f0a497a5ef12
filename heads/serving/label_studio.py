"""The ML backend that Label Studio asks: predictions for its tasks, and its labels sent back.

The protocol is that of label-studio-ml-backend: ``/health``, ``/setup``, ``/predict``, and
``/webhook`` for annotations and for its button "Start training"; ``/train`` and ``/fit`` of older
versions. Nothing is fetched from Label Studio, and the access token that it sends is not kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

from starlette.routing import Route

from featurestore.errors import BadName, FeatureStoreError, NotEnoughData
from featurestore.exchange.label_studio import pictures, read_json, reviews_of
from featurestore.store.dataset import DataSet
from featurestore.terms.labels import SEPARATOR
from featurestore.terms.specs import Modality
from heads.experiments.fit import fit
from heads.experiments.suggest import suggest
from heads.labels.tasks import Task
from heads.saved.beside import columns_of
from heads.saved.bundle import FittedHead
from heads.saved.serve import modality_of
from heads.serving.allowed_folder import read_inside
from heads.serving.answering import Desk, told
from heads.serving.app import App, said
from heads.serving.lane import Content, Said, Unanswered
from heads.serving.limits import Refused
from heads.serving.reading import Question, from_base64

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from featurestore.store.view import View

PREFIX = "/label-studio"
_MOST_SUGGESTED = 500  # items that have a place in the order of `suggest`
_AT_ONCE = 64  # tasks that are asked together
_ANNOTATED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asks:
    """What a labeling interface asks, by the names of its tags."""

    from_name: str
    to_name: str
    variable: str | None  # of the task's data that is shown; None: unknown
    is_number: bool = False


def asked_in(config: str, label: str) -> Asks:
    """Find the question about a label: the tag of that name, or the only one.

    Raises
    ------
    Refused
        If the interface is not XML, or has no such question.
    """
    try:
        if "<!" in config.replace("<!--", ""):
            raise ElementTree.ParseError("declarations are not read")
        tags = list(ElementTree.fromstring(config).iter())
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise Refused(422, f"the labeling interface is not XML: {error}") from None
    questions = [
        one for one in tags
        if one.tag in ("Choices", "Number") and one.get("name") and one.get("toName")
    ]  # fmt: skip
    found = [one for one in questions if one.get("name") == label] or questions
    if len(found) != 1:
        raise Refused(
            422,
            f'the labeling interface needs one <Choices name="{label}" toName="…"> for the head',
        )
    to_name = str(found[0].get("toName"))
    values = [str(one.get("value") or "") for one in tags if one.get("name") == to_name]
    variable = next((one[1:] for one in values if one.startswith("$")), None)
    return Asks(str(found[0].get("name")), to_name, variable, found[0].tag == "Number")


class LabelStudio:
    """The addresses below ``/label-studio``.

    Parameters
    ----------
    app : App
        The first head that it serves answers; a head trained again takes its place.
    dataset : DataSet
        Where labels go, as decisions of reviewers: their history stays, and they can be undone.
    retrain_after : int
        New labels until a head is trained again; 0: only when Label Studio asks for it.
    """

    def __init__(self, app: App, dataset: DataSet, *, retrain_after: int = 1) -> None:
        self.desk: Desk = app.desk
        self.reader, self.dataset = app.reader, dataset
        self.name = next(iter(app.desk.served.heads))
        if names := columns_of(self.head):
            raise BadName(
                f"Label Studio shows items, and head {self.name} also reads their columns "
                f"{', '.join(names)}: serve one that was trained without --columns"
            )
        self.retrainer = Retrainer(self._retrained, retrain_after)
        self._order: tuple[object, dict[str, int]] = (None, {})
        answers: dict[str, Callable[[Question], Any]] = {
            "setup": self._setup,
            "predict": self._predict,
            "webhook": self._webhook,
            "train": self._train,
            "fit": self._train,
        }
        for name, answer in answers.items():
            handler = app.guarded(self._asked(answer))
            app.more.append(Route(f"{PREFIX}/{name}", handler, methods=["POST"]))
        app.more.append(Route(f"{PREFIX}/health", app.guarded(self._health)))
        app.more.append(Route(f"{PREFIX}/tasks", app.guarded(self._tasks)))

    @property
    def head(self) -> FittedHead:
        """The head that answers now."""
        return self.desk.served.head(self.name).head

    def _asked(self, answer: Callable[[Question], Any]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            async with self.reader.question(request) as question:
                return said(await answer(question))

        return handle

    async def _health(self, request: Request) -> Response:
        return said({"status": "UP", "model_class": "featurestore"})

    async def _setup(self, question: Question) -> dict[str, Any]:
        config = question.text("schema")
        if config:
            asked_in(config, self.head.card.label)
        return {"model_version": self.head.head_id, **self.retrainer.about()}

    async def _predict(self, question: Question) -> dict[str, Any]:
        tasks = _dicts(question.options.get("tasks"), "tasks")
        head = self.head
        asks = asked_in(question.text("label_config") or "", head.card.label)
        order = await asyncio.to_thread(self._ranks)
        results: list[dict[str, Any]] = []
        for begin in range(0, len(tasks), _AT_ONCE):
            some = tasks[begin : begin + _AT_ONCE]
            found = await self._answers(some, asks)
            results += [
                _result(head, one, asks, order.get(_item_of(task)))
                for task, one in zip(some, found, strict=True)
            ]
        return {"results": results, "model_version": head.head_id}

    async def _answers(
        self, tasks: Sequence[Mapping[str, Any]], asks: Asks
    ) -> list[Said | Unanswered]:
        one = self.desk.served.head(self.name)
        read = [await asyncio.to_thread(self._content, task, asks) for task in tasks]
        good = [content for content in read if not isinstance(content, Unanswered)]
        try:
            found = iter(await self.desk.ask(one.lane, good, one.head) if good else [])
        except Refused as error:
            if error.status != 422:
                raise
            found = iter([Unanswered(error.why)] * len(good))
        return [content if isinstance(content, Unanswered) else next(found) for content in read]

    def _content(self, task: Mapping[str, Any], asks: Asks) -> Content | Unanswered:
        """Return what a task shows: of items of the data set as they are in their source."""
        data = task.get("data")
        data = data if isinstance(data, dict) else {}
        is_text = modality_of(self.head) is Modality.TEXT
        shown = data.get(asks.variable or ("text" if is_text else "image"))
        try:
            if is_text:
                return shown if isinstance(shown, str) else Unanswered("the task has no text")
            if item := _item_of(task):
                return self.dataset.read_bytes(item)
            if not isinstance(shown, str):
                return Unanswered("the task has no picture")
            if shown.startswith("data:"):
                return from_base64(shown)
            return self._local_file(shown)
        except (FeatureStoreError, Refused) as error:
            return Unanswered(str(error))

    def _local_file(self, address: str) -> bytes:
        """Return a file that Label Studio serves from the allowed folder."""
        parts = urlsplit(address)
        names = parse_qs(parts.query).get("d", [])
        if self.reader.folder is None or parts.path != "/data/local-files/" or len(names) != 1:
            raise Refused(
                422,
                "only texts, items of the data set, data: pictures, and local files below "
                "--allow-folder are read; nothing is fetched",
            )
        folder = self.reader.folder  # its own name begins the path, as `review --export` writes it
        name = names[0].removeprefix(f"{folder.name}/")
        return read_inside(folder, name, self.reader.limits.body_bytes)

    def _view(self) -> View:
        spec = None if self.head.card.reads == "texts" else self.head.card.encoder
        views = self.dataset.views()
        return next((one for one in views if str(one.spec) == spec), views[0])

    def _ranks(self) -> dict[str, int]:
        """Return the place of items in the order of `suggest`, 0 first; of the present labels."""
        view = self._view()
        state = (str(view.snapshot), len(self.dataset.reviews()))
        if self._order[0] != state:
            try:
                found = suggest(view, _MOST_SUGGESTED, label=self.head.card.label)
                ranks = {one.item_id: rank for rank, one in enumerate(found)}
            except NotEnoughData:  # everything has a label
                ranks = {}
            self._order = (state, ranks)
        return self._order[1]

    async def _tasks(self, request: Request) -> Response:
        """Answer tasks to import, the most useful items first."""
        return said(await asyncio.to_thread(self._as_tasks))

    def _as_tasks(self) -> list[dict[str, Any]]:
        ids = list(self._ranks())
        if modality_of(self.head) is Modality.IMAGE:
            shown = {item: {"image": one} for item, one in pictures(self.dataset, ids).items()}
        else:
            rows = self.dataset.items(["item_id", "text"]).to_pylist()
            shown = {one["item_id"]: {"text": one["text"]} for one in rows}
        return [{"data": {"item_id": item, **shown[item]}} for item in ids]

    async def _webhook(self, question: Question) -> dict[str, Any]:
        action = question.text("action")
        if action == "START_TRAINING":
            self.retrainer.ask()
        elif action in _ANNOTATED:
            tasks, made = question.options.get("task"), question.options.get("annotation")
            if isinstance(made, dict):
                tasks, made = [tasks], [made]
            pairs = zip(_dicts(tasks, "task"), _dicts(made, "annotation"), strict=False)
            given = [{**task, "annotations": [one]} for task, one in pairs]
            return await asyncio.to_thread(self._take, given)
        elif action == "ANNOTATIONS_DELETED":
            gone = _dicts(question.options.get("annotations"), "annotations")
            ids = [str(one.get("id")) for one in gone]
            return await asyncio.to_thread(self._take_back, ids)
        return {"status": "ok"}

    async def _train(self, question: Question) -> dict[str, Any]:
        given = question.options.get("annotations")
        found = await asyncio.to_thread(self._take, _dicts(given, "annotations")) if given else {}
        self.retrainer.ask()
        return {**found, "job": self.head.head_id}

    def _take(self, tasks: list[dict[str, Any]]) -> dict[str, Any]:
        """Keep annotations as decisions; those that are known are left out."""
        label = self.head.card.label
        known = self.dataset.reviews()
        labels = set(self.dataset.label_columns) | {label}
        reviews, notes = read_json(Path("Label Studio"), json.dumps(tasks), label, labels, known)
        ids = {one.id for one in known}
        added = self.dataset.add_reviews([one for one in reviews if one.id not in ids])
        self.retrainer.note(len(added))
        return {"status": "ok", "n_labels": len(added), "notes": notes}

    def _take_back(self, annotations: list[str]) -> dict[str, Any]:
        gone = reviews_of(self.dataset.reviews(), annotations)
        for one in gone:
            self.dataset.undo_review(one.id)
        self.retrainer.note(len(gone))
        return {"status": "ok", "n_undone": len(gone)}

    def _retrained(self) -> None:
        """Train the head again, with all decisions, and serve it in place of the old one."""
        card = self.head.card
        specs = [block["spec"] for block in self.head.blocks]
        views = [self.dataset.view(spec) for spec in specs] or [self._view()]
        coverage = card.conformal.coverage if card.conformal else None
        made = fit(
            views if len(views) > 1 else views[0], card.head, label=card.label,
            task=str(card.task), coverage=coverage, seed=card.seed, apply_reviews=True,
        )  # fmt: skip
        self.desk.served.add(self.name, made)
        _log.info("trained again: %s", made.head_id)


class Retrainer:
    """Trains in a thread, one run at a time; what comes meanwhile makes one further run."""

    def __init__(self, train: Callable[[], None], after: int) -> None:
        self.train, self.after = train, after
        self.n_runs, self.error = 0, ""
        self._changed = Condition()
        self._n_new, self._is_asked, self._is_running = 0, False, False

    def note(self, n: int) -> None:
        """Count new labels; train after so many."""
        with self._changed:
            self._n_new += n
            is_due = bool(self.after) and self._n_new >= self.after
        if is_due:
            self.ask()

    def ask(self) -> None:
        """Train soon."""
        with self._changed:
            self._is_asked, self._n_new = True, 0
            if not self._is_running:
                self._is_running = True
                Thread(target=self._run, name="featurestore-retrain", daemon=True).start()

    def about(self) -> dict[str, Any]:
        """Return whether it trains, and what went wrong last."""
        with self._changed:
            return {
                "is_training": self._is_running,
                **({"error": self.error} if self.error else {}),
            }

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is trained; False where that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_running, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._is_asked:
                    self._is_running = False
                    self._changed.notify_all()
                    return
                self._is_asked = False
            try:
                self.train()
                self.n_runs, self.error = self.n_runs + 1, ""
            except Exception as error:  # the old head goes on answering
                _log.exception("the head could not be trained again")
                self.error = str(error) if isinstance(error, FeatureStoreError) else "see the log"


def _result(
    head: FittedHead, one: Said | Unanswered, asks: Asks, rank: int | None
) -> dict[str, Any]:
    """Return a prediction as Label Studio shows it.

    Its score orders tasks: with "sort by lowest score first" those that `suggest` names come
    first, in its order (below 0.5), then the others by confidence (from 0.5).
    """
    if isinstance(one, Unanswered):
        return {"result": [], "score": 0.0, "model_version": head.head_id}
    found = told(head, one)
    value: dict[str, Any] = {"choices": [found["predicted"]]}
    if asks.is_number:
        value = {"number": found["predicted"]}
    elif head.task is Task.MULTILABEL:
        value = {"choices": [name.replace(SEPARATOR, "/") for name in found["predicted"]]}
    score = 0.5 + found.get("confidence", 1.0) / 2 if rank is None else rank / _MOST_SUGGESTED / 2
    result = {
        "from_name": asks.from_name,
        "to_name": asks.to_name,
        "type": "number" if asks.is_number else "choices",
        "value": value,
    }
    return {"result": [result], "score": round(score, 6), "model_version": head.head_id}


def _item_of(task: Mapping[str, Any]) -> str:
    data = task.get("data")
    found = data.get("item_id") if isinstance(data, dict) else None
    return found if isinstance(found, str) else ""


def _dicts(value: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Refused(422, f"{name} must be a list of objects")
    return value
