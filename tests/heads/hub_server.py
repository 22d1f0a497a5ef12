"""A server on this machine that speaks what huggingface_hub asks of the Hub for models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_testtesttesttesttest"


@dataclass
class Repo:
    """Files of each commit, the newest last, and the commit of each branch."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.branches.get(revision, revision)
        return next((one for one in self.commits if one[0] == sha), None)


class Hub(ThreadingHTTPServer):
    """Repositories, and what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, Authorization
        self.blobs: dict[str, bytes] = {}
        self.storage = self  # the server of large files
        self.before_commit: Callable[[], object] = lambda: None
        self.cut: int | None = None  # bytes after which a large file ends too early

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(
        self, name: str, files: dict[str, bytes], *, private: bool = False, branch: str = "main"
    ) -> str:
        """Add a commit; return its name."""
        repo = self.repos.setdefault(name, Repo(private))
        sha = hashlib.sha1(f"{name}{len(repo.commits)}".encode()).hexdigest()
        repo.commits.append((sha, files))
        repo.branches[branch] = sha
        return sha


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        return

    def _say(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, one in (headers or {}).items():
            self.send_header(name, one)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self, code: str) -> None:
        self._say({"error": code}, 404, {"X-Error-Code": code})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.server.asked.append((self.command, path, self.headers.get("Authorization")))
        for pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found:
                answer(self, body, **found.groupdict())
                return
        self._missing("EntryNotFound")

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _handle

    def _repo(self, repo: str) -> Repo | None:
        found = self.server.repos.get(repo)
        is_seen = found is not None and (
            not found.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"
        )
        return found if is_seen else None

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = (
            f"{asked['organization']}/{asked['name']}"
            if asked.get("organization")
            else asked["name"]
        )
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say({"error": "Invalid username or password."}, 401)
            return
        self.server.put(
            name,
            {".gitattributes": b""},
            private=asked.get("visibility") == "private" or bool(asked.get("private")),
        )
        self._say({"url": f"{self.server.address}/{name}"})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = json.loads(body)["files"]
        modes = {True: "lfs", False: "regular"}
        said = [
            {"path": one["path"], "uploadMode": modes[one["path"].endswith(".skops")],
             "shouldIgnore": False}
            for one in files
        ]  # fmt: skip
        self._say({"files": said})

    def batch(self, body: bytes, repo: str) -> None:
        objects = [
            {"oid": one["oid"], "size": one["size"],
             "actions": {"upload": {"href": f"{self.server.storage.address}/blob/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]  # fmt: skip
        headers = {"Content-Type": "application/vnd.git-lfs+json"}
        self._say({"transfer": "basic", "objects": objects}, 200, headers)

    def blob(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self._say({})

    def stored(self, body: bytes, oid: str) -> None:
        content = self.server.blobs[oid]
        if self.server.cut is None:
            self._say(content)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.cut])
        self.close_connection = True

    def branch(self, body: bytes, repo: str, branch: str) -> None:
        found = self.server.repos[repo]
        found.branches.setdefault(branch, found.branches["main"])
        self._say({}, 201)

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        self.server.before_commit()
        found = self._repo(repo)
        if found is None or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say({"error": "no"}, 403)
            return
        last, there = found.at(revision) or ("", {})
        files = dict(there)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if value.get("parentCommit", last) != last:
                self._say({"error": "A commit has happened since."}, 412)
                return
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.server.put(repo, files, branch=revision)
        url = f"{self.server.address}/{repo}/commit/{sha}"
        self._say({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def info(self, body: bytes, repo: str, revision: str = "main") -> None:
        found = self._repo(repo)
        if found is None:
            self._missing("RepoNotFound")
        elif (one := found.at(revision)) is None:
            self._missing("RevisionNotFound")
        else:
            names = [{"rfilename": name} for name in one[1]]
            self._say({"id": repo, "modelId": repo, "sha": one[0], "siblings": names,
                       "private": found.private, "tags": [], "downloads": 0})  # fmt: skip

    def tree(self, body: bytes, repo: str, revision: str) -> None:
        found = self._repo(repo)
        if found is None:
            self._missing("RepoNotFound")
        elif (one := found.at(revision)) is None:
            self._missing("RevisionNotFound")
        else:
            self._say([
                {"type": "file", "path": name, "size": len(content),
                 "oid": hashlib.sha1(content).hexdigest()}
                for name, content in one[1].items()
            ])  # fmt: skip

    def resolve(self, body: bytes, repo: str, revision: str, file: str) -> None:
        found = self._repo(repo)
        one = None if found is None else found.at(revision)
        if one is None or file not in one[1]:
            self._missing("RepoNotFound" if found is None else "EntryNotFound")
            return
        content = one[1][file]
        if file.endswith(".skops"):
            oid = hashlib.sha256(content).hexdigest()
            self.server.blobs[oid] = content
            self._say(b"", 302, {
                "Location": f"{self.server.storage.address}/blob/{oid}", "X-Repo-Commit": one[0],
                "X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{oid}"',
            })  # fmt: skip
            return
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self._say(content, 200, {"X-Repo-Commit": one[0], "ETag": etag})


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", lambda self, body: self._say({"errors": [], "warnings": []})),
    (rf"POST /api/models/{_REPO}/preupload/(?P<revision>\w+)", _Handler.preupload),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /blob/(?P<oid>\w+)", _Handler.blob),
    (r"GET /blob/(?P<oid>\w+)", _Handler.stored),
    (rf"POST /api/models/{_REPO}/branch/(?P<branch>\w+)", _Handler.branch),
    (rf"POST /api/models/{_REPO}/commit/(?P<revision>\w+)", _Handler.commit),
    (rf"GET /api/models/{_REPO}/tree/(?P<revision>\w+)", _Handler.tree),
    (rf"GET /api/models/{_REPO}/revision/(?P<revision>\w+)", _Handler.info),
    (rf"GET /api/models/{_REPO}", _Handler.info),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/(?P<revision>\w+)/(?P<file>.+)", _Handler.resolve),
]


@contextmanager
def hub() -> Iterator[Hub]:
    """Run it in a thread, and in another the server of its large files, at another address."""
    server, storage = Hub(), Hub()
    storage.blobs = server.blobs
    server.storage = storage
    threads = [
        Thread(target=one.serve_forever, args=(0.02,), daemon=True) for one in (server, storage)
    ]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        for one in (server, storage):
            one.shutdown()
            one.server_close()
        for thread in threads:
            thread.join()
