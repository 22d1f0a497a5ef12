"""The addresses of a server: what is asked where, and how refusals are said."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from featurestore.errors import (
    FeatureStoreError,
    MissingColumn,
    NotTrusted,
    StoreBusy,
    StoreCorrupt,
    StoreUnreachable,
)
from heads.serving import pages
from heads.serving.answering import Desk
from heads.serving.guard import Guard
from heads.serving.limits import Refused
from heads.serving.reading import Question, Reader

if TYPE_CHECKING:
    from starlette.requests import Request

Handler: TypeAlias = Callable[["Request"], Awaitable[Response]]
_STATUS: Mapping[type[FeatureStoreError], int] = {
    MissingColumn: 422,
    NotTrusted: 403,
    StoreBusy: 503,
    StoreCorrupt: 503,
    StoreUnreachable: 503,
}
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_LARGE = 50  # answers whose JSON is written in a thread
_log = logging.getLogger(__name__)


class App:
    """The addresses of one server."""

    def __init__(self, desk: Desk, reader: Reader, guard: Guard) -> None:
        self.desk, self.reader, self.guard = desk, reader, guard
        self.is_stopping = False
        self.n_taken = 0  # requests that were read
        self.more: list[Route] = []  # of other tools

    def asgi(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/", self.guarded(self._root)),
            Route("/docs", self.guarded(self._docs)),
            Route("/openapi.json", self.guarded(self._openapi)),
            Route("/health", self.guarded(self._health)),
            Route("/heads", self.guarded(self._heads)),
            *(
                Route(f"/{name}", self.guarded(self._asked(answer)), methods=["POST"])
                for name, answer in self._answers().items()
            ),
            *self.more,
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_address})

    def _answers(self) -> dict[str, Callable[[Question], Awaitable[dict[str, Any]]]]:
        found = {"predict": self.desk.predict, "embed": self.desk.embed}
        return found | ({"search": self.desk.search} if self.desk.served.store else {})

    def guarded(self, handler: Handler) -> Handler:
        """Return a handler that refuses who may not ask, and says every refusal as JSON."""

        async def handle(request: Request) -> Response:
            try:
                self.guard.check(request)
                answer = await handler(request)
            except Refused as error:
                answer = said({"error": error.why}, error.status, error.headers)
            except FeatureStoreError as error:
                answer = said({"error": str(error)}, _status_of(error))
            except Exception:  # a fault of ours: who asked learns nothing of the inside
                _log.exception("a request failed")
                answer = said({"error": "the server failed on this request; its log says why"}, 500)
            if self.is_stopping:
                answer.headers["Connection"] = "close"
            return answer

        return handle

    def _asked(self, answer: Callable[[Question], Awaitable[dict[str, Any]]]) -> Handler:
        async def handle(request: Request) -> Response:
            async with self.reader.question(request) as question:
                self.n_taken += 1
                found = await answer(question)
                is_large = len(question.contents) > _LARGE
            return await asyncio.to_thread(said, found) if is_large else said(found)

        return handle

    async def _health(self, request: Request) -> Response:
        if self.is_stopping:
            return said({"status": "STOPPING"}, 503)
        found: dict[str, Any] = {"status": "UP", "model_class": "featurestore"}
        if self.desk.log is not None and self.desk.log.n_lost:
            found["answers_not_logged"] = self.desk.log.n_lost
        if self.guard.knows(request):
            found["heads"] = [one.head.head_id for one in self.desk.served.heads.values()]
        return said(found)

    async def _heads(self, request: Request) -> Response:
        return said({"heads": [one.about() for one in self.desk.served.heads.values()]})

    async def _openapi(self, request: Request) -> Response:
        return said(self._described(request))

    async def _docs(self, request: Request) -> Response:
        page = pages.as_html(self._described(request))
        return HTMLResponse(page, headers={**_HEADERS, "Content-Security-Policy": pages.POLICY})

    async def _root(self, request: Request) -> Response:
        return RedirectResponse("docs")

    def _described(self, request: Request) -> dict[str, Any]:
        heads = [one.about() for one in self.desk.served.heads.values()]
        return pages.openapi(
            heads,
            list(self._answers()),
            address=str(request.base_url).rstrip("/"),
            needs_token=self.guard.token is not None,
            allows_paths=self.reader.folder is not None,
        )


def said(
    value: object, status: int = 200, headers: Mapping[str, str] | Sequence[Any] | None = None
) -> Response:
    """Return an answer as JSON."""
    content = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    return Response(content, status, {**_HEADERS, **dict(headers or {})}, "application/json")


def _status_of(error: FeatureStoreError) -> int:
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return status
    return 404 if isinstance(error, LookupError) else 422


async def _no_such_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    is_absent = error.status_code == HTTPStatus.NOT_FOUND
    why = "there is nothing at this address: see /docs" if is_absent else error.detail
    return said({"error": why}, error.status_code, error.headers)
