"""OpenAPI of a server, and the page that shows it: plain HTML, nothing loaded from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from featurestore import __version__

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
_ABOUT = {
    "predict": "What a head says of texts or pictures",
    "embed": "The vectors of texts or pictures",
    "search": "The nearest items of a data set",
}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_ITEMS: Mapping[str, Any] = {
    "texts": _TEXTS,
    "images": {**_TEXTS, "description": "Files of pictures as base64."},
}
_PATHS = {**_TEXTS, "description": "Files inside the folder of --allow-folder."}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "predict": {
        "head": {"type": "string", "description": "A head's id; the first by default."},
        "min_confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "ids": {**_TEXTS, "description": "What a log of answers calls the items."},
        "columns": {
            "type": "object",
            "description": "Where the head reads columns: a list of values an item, by column.",
        },
    },
    "embed": {"encoder": {"type": "string", "description": "Its spec, where there are several."}},
    "search": {
        "dataset": {"type": "string"},
        "encoder": {"type": "string"},
        "item": {"type": "string", "description": "An item's id, in place of texts or images."},
        "k": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10},
    },
}
_ERRORS = {
    "400": "The request cannot be read.",
    "401": "The token is missing or wrong.",
    "403": "Not allowed: another site, or a path outside the folder.",
    "404": "No such head, data set or item.",
    "408": "The request was sent too slowly.",
    "413": "Too large.",
    "415": "Of a kind that is not read here.",
    "422": "No item can be answered.",
    "429": "Too much is waiting: ask again after Retry-After seconds.",
    "503": "No answer in time, or the server is stopping.",
}


def openapi(
    heads: Sequence[Mapping[str, Any]],
    answers: Sequence[str],
    *,
    address: str,
    needs_token: bool,
    allows_paths: bool,
) -> dict[str, Any]:
    """Return the description of a server, OpenAPI 3.1.

    Parameters
    ----------
    heads : sequence of dict
        As of `ServedHead.about`.
    answers : sequence of str
        Which of predict, embed and search there are.
    """
    errors = {status: {"description": about} for status, about in _ERRORS.items()}
    paths: dict[str, Any] = {
        f"/{name}": {
            "post": {
                "summary": _ABOUT[name],
                "operationId": name,
                "requestBody": {"required": True, "content": _bodies(name, allows_paths)},
                "responses": {"200": _answer("In the order of the items."), **errors},
            }
        }
        for name in answers
    }
    for name, about in (("health", "Whether the server is up"), ("heads", "What is served")):
        paths[f"/{name}"] = {
            "get": {"summary": about, "operationId": name, "responses": {"200": _answer(about)}}
        }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "featurestore", "version": __version__, "description": _listed(heads)},
        "servers": [{"url": address}],
        "paths": paths,
    }
    if needs_token:
        found["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        found["security"] = [{"token": []}]
    return found


def _answer(about: str) -> dict[str, Any]:
    return {
        "description": about,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }


def _bodies(name: str, allows_paths: bool) -> dict[str, Any]:
    items = {**_ITEMS, **({"paths": _PATHS} if allows_paths else {})}
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"file": {"type": "string", "format": "binary"}, "text": {"type": "string"}}
    return {
        "application/json": {
            "schema": {"type": "object", "properties": {**items, **_OPTIONS[name]}}
        },
        "multipart/form-data": {"schema": {"type": "object", "properties": form}},
        "image/*": binary,
        "text/plain": {"schema": {"type": "string"}},
    }


def _listed(heads: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f"{one['head']}: {one['kind']} on {one['encoder']}, reads {one['reads']}s, "
        f"{one['task']} of {', '.join(one['classes'][:20]) or 'a number'}"
        for one in heads
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#f2f2f2;padding:.7rem;overflow:auto}h2{margin-top:2rem}"
)


def as_html(described: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI description."""
    address = described["servers"][0]["url"]
    token = " -H 'Authorization: Bearer TOKEN'" if "security" in described else ""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>featurestore serve</title>",
        f"<style>{_STYLE}</style><h1>featurestore {escape(described['info']['version'])}</h1>",
        f"<pre>{escape(described['info']['description']) or 'no head is served'}</pre>",
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            curl = f"curl{token} {address}{path}"
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(one['summary'])}</p>")
            if method == "post":
                properties = one["requestBody"]["content"]["application/json"]["schema"]
                example = {"texts": ["a text"]}
                curl += " -H 'Content-Type: application/json' -d '" + json.dumps(example) + "'"
                names = escape(", ".join(properties["properties"]))
                parts.append(f"<p>JSON with: {names}. Or a form with files, or a picture.</p>")
            parts.append(f"<pre>{escape(curl)}</pre>")
    statuses = "".join(f"<li>{status}: {escape(about)}</li>" for status, about in _ERRORS.items())
    return "".join([*parts, f"<h2>Refusals</h2><ul>{statuses}</ul></html>"])
