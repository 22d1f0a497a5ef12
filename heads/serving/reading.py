"""What a request asks: texts and pictures out of JSON, forms and plain bodies, within limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import nearest
from heads.serving.allowed_folder import read_inside
from heads.serving.limits import Hold, Limits, Refused, Room

if TYPE_CHECKING:
    from starlette.requests import Request

KINDS = ("texts", "images", "paths")
_IN_A_THREAD = 1 << 16  # bytes of JSON that are no longer parsed beside other requests


@dataclass(frozen=True)
class Question:
    """Items in the order in which they were sent, and how to answer."""

    contents: list[str | bytes] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)  # all other keys

    def check_options(self, *known: str) -> None:
        """Refuse an option that nobody reads: a misspelt one would count as not given."""
        for name in self.options:
            if name not in known:
                raise Refused(422, f"no key {name!r}: {nearest(name, (*known, *KINDS), n=9)}")

    def columns(self) -> dict[str, list[Any]] | None:
        """Return the option columns: values of the items by column; None where it is not given."""
        given = self._of("columns", dict, 'an object, such as {"age": [61]}')
        for name, values in (given or {}).items():
            if not isinstance(values, list) or len(values) != len(self.contents):
                raise Refused(422, f"columns.{name}: expected a list with a value for each item")
            if not all(one is None or isinstance(one, (str, int, float)) for one in values):
                raise Refused(422, f"columns.{name}: expected texts, numbers or null")
        return given  # type: ignore[no-any-return]

    def ids(self) -> list[str] | None:
        """Return the option ids: what a log calls the items; None where it is not given."""
        given: list[str] | None = self._of("ids", list, "a list of texts")
        if given is not None and (
            len(given) != len(self.contents) or not all(isinstance(one, str) for one in given)
        ):
            raise Refused(422, "ids: expected a list with a text for each item")
        return given

    def text(self, name: str) -> str | None:
        """Return an option that is a text; None where it is not given."""
        value: str | None = self._of(name, str, "a text")
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """Return an option that is a number within limits."""
        value = self.options.get(name)
        if value is None:
            return default
        try:
            value = float(value) if isinstance(value, str) else self._of(name, (int, float), "")
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise Refused(422, f"{name}: expected a number from {least:g} to {most:g}")
        return float(value)

    def _of(self, name: str, kind: type | tuple[type, ...], what: str) -> Any:
        value = self.options.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise Refused(422, f"{name} is {type(value).__name__}: expected {what}")
        return value


class Reader:
    """Reads requests; all bodies together take no more memory than the limits say."""

    def __init__(self, limits: Limits, folder: Path | None) -> None:
        self.limits = limits
        self.folder = None if folder is None else folder.resolve(strict=True)
        self.held = Room(limits.held_bytes, "large requests")

    @asynccontextmanager
    async def question(self, request: Request) -> AsyncIterator[Question]:
        """Read a request; its body counts as held until the block ends.

        Raises
        ------
        Refused
        """
        hold = Hold(self.held)
        try:
            body = await self._body(request, hold)
            yield await self._parsed(request, body, hold)
        finally:
            hold.give_back()

    async def _body(self, request: Request, hold: Hold) -> bytes:
        """Return the body, which counts as held."""
        chunks: list[bytes] = []
        self._check_headers(request)
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for chunk in request.stream():
                    hold.take(len(chunk))
                    if hold.n > self.limits.body_bytes:
                        raise self._too_large()
                    chunks.append(chunk)
        except TimeoutError:
            seconds = f"{self.limits.body_s:g} s"
            raise Refused(408, f"the request took longer than {seconds}", _CLOSE) from None
        return b"".join(chunks)

    def _check_headers(self, request: Request) -> None:
        coding = request.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise Refused(415, f"Content-Encoding {coding}: send the body as it is", _CLOSE)
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self.limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, f"more than {self.limits.body_bytes:,} bytes", _CLOSE)

    async def _parsed(self, request: Request, body: bytes, hold: Hold) -> Question:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            hold.take(_bytes_of_json(body))
            large = len(body) > _IN_A_THREAD
            data = await asyncio.to_thread(parsed_json, body) if large else parsed_json(body)
            found = await asyncio.to_thread(self._from_json, data, hold)
        elif kind == "multipart/form-data":
            hold.take(len(body))  # its parts are copies
            found = await self._from_form(request, body)
        elif kind == "text/plain":
            found = Question([_text(body)], dict(request.query_params))
        elif kind.startswith("image/") or kind == "application/octet-stream":
            found = Question([body], dict(request.query_params))
        else:
            raise Refused(
                415,
                f"Content-Type {kind or 'is not given'}: expected application/json, "
                "multipart/form-data, image/…, application/octet-stream or text/plain",
            )
        self._check(found)
        return found

    def _check(self, found: Question) -> None:
        if len(found.contents) > self.limits.items:
            raise Refused(413, f"more than {self.limits.items:,} items in one request")
        letters = max((len(one) for one in found.contents if isinstance(one, str)), default=0)
        if letters > self.limits.letters:
            raise Refused(413, f"a text of more than {self.limits.letters:,} characters")

    def _from_json(self, data: dict[str, Any], hold: Hold) -> Question:
        given = [name for name in KINDS if name in data]
        if len(given) > 1:
            raise Refused(422, f"{' and '.join(given)} in one request: send them one by one")
        options = {name: value for name, value in data.items() if name not in KINDS}
        if not given:
            return Question([], options)
        (kind,) = given
        values = data[kind]
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise Refused(422, f"{kind} must be a list of texts")
        if len(values) > self.limits.items:
            raise Refused(413, f"more than {self.limits.items:,} items in one request")
        if kind == "texts":
            return Question([_whole(one) for one in values], options)
        if kind == "images":
            return Question([from_base64(one) for one in values], options)
        return Question(self._files(values, hold), options)

    def _files(self, names: Sequence[str], hold: Hold) -> list[str | bytes]:
        if self.folder is None:
            raise Refused(403, "paths are not allowed here: --allow-folder FOLDER allows them")
        found: list[str | bytes] = []
        left = self.limits.body_bytes
        for name in names:
            found.append(read_inside(self.folder, _whole(name), left, hold.take))
            left -= len(found[-1])
        return found

    async def _from_form(self, request: Request, body: bytes) -> Question:
        from starlette.formparsers import MultiPartException, MultiPartParser

        async def stream() -> AsyncGenerator[bytes, None]:
            yield body

        most = self.limits.items
        parser = MultiPartParser(
            request.headers, stream(), max_files=most, max_fields=most,
            max_part_size=self.limits.body_bytes,
        )  # fmt: skip
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError, ValueError) as error:
            raise Refused(400, f"the form cannot be read: {error}") from None
        contents: list[str | bytes] = []
        options: dict[str, Any] = dict(request.query_params)
        try:
            for name, value in form.multi_items():
                if not isinstance(value, str):
                    contents.append(await value.read())
                elif name in ("text", "texts"):
                    contents.append(value)
                else:
                    options[name] = value
        finally:
            await form.close()
        return Question(contents, options)


_CLOSE = {"Connection": "close"}
_OF_A_VALUE = 80  # bytes that Python takes for a small value, and its place in a list


def _bytes_of_json(body: bytes) -> int:
    """Return what the values of a JSON text may take in memory, beside the text."""
    n_values = body.count(b",") + body.count(b"[") + body.count(b"{") + body.count(b":")
    return 2 * len(body) + _OF_A_VALUE * n_values


def parsed_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds."""
    try:
        data = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {_short(error)}") from None
    if not isinstance(data, dict):
        raise Refused(422, 'the body must be a JSON object, such as {"texts": ["…"]}')
    return data


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _short(error: BaseException) -> str:
    return str(error)[:200]


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Refused(422, "the text is not UTF-8") from None


def _whole(text: str) -> str:
    """Return a text that can be written as UTF-8: JSON can name half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(422, "a text holds half a character (a lone surrogate)") from None
    return text


def from_base64(text: str) -> bytes:
    """Return the bytes of base64, or of an address that begins with data:."""
    _, comma, after = text.partition(",") if text.startswith("data:") else ("", "", "")
    try:
        return base64.b64decode(after if comma else text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "images must be base64") from None
