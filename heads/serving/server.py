"""The server itself: sockets, slow clients, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, getsignal, signal
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

from featurestore.encoders.trust import Trust
from featurestore.errors import BadName, MissingExtra
from heads.saved.answer_log import AnswerLog
from heads.saved.bundle import FittedHead
from heads.serving.guard import Guard, is_local
from heads.serving.limits import Limits
from heads.serving.reading import Reader

try:
    import python_multipart  # noqa: F401  # what starlette reads forms with
    import uvicorn

    from heads.serving.answering import Desk
    from heads.serving.app import App
    from heads.serving.connections import Connection, connections_of
    from heads.serving.label_studio import LabelStudio
    from heads.serving.served import Served
except ImportError as _error:
    if _error.name not in ("uvicorn", "starlette", "multipart", "python_multipart", "h11"):
        raise
    raise MissingExtra(f"serve needs {_error.name}: pip install 'featurestore[serve]'") from _error

if TYPE_CHECKING:
    from featurestore.store.store import Store

BACKLOG = 2048
STOPS = (SIGINT, SIGTERM, SIGHUP)
_TICKS = 10  # of a tenth of a second, between two looks at the connections
_LAST_WORDS_S = 0.3  # for requests that were sent before their sender knew of the stop


@dataclass(frozen=True)
class ServeOptions:
    """How to serve."""

    host: str = "127.0.0.1"
    port: int = 8600  # 0: any that is free
    token: str | None = None
    allow_folder: Path | None = None
    encoder: str | None = None  # where the heads' encoder is now
    trust: Trust = False
    limits: Limits = field(default_factory=Limits)
    label_studio: str | None = None  # a data set of the store: where its labels go
    retrain_after: int = 1  # labels of Label Studio; 0: only when it asks
    log: AnswerLog | None = None  # of what is answered


class Server(uvicorn.Server):
    """Serves heads until it is told to stop, then answers what was asked before.

    Everything is checked and opened when it is made; `listen` and `run` come then.
    """

    def __init__(
        self, heads: Mapping[str, FittedHead], options: ServeOptions, *, store: Store | None = None
    ) -> None:
        limits = options.limits
        guard = Guard(options.host, options.token)
        folder = options.allow_folder
        if folder is not None and not folder.is_dir():
            raise BadName(f"--allow-folder {folder} is not a folder")
        self.options = options
        served = Served(
            heads, limits=limits, store=store, encoder=options.encoder, trust=options.trust
        )
        self.desk = Desk(served, limits, options.log)
        self.app = App(self.desk, Reader(limits, folder), guard)
        self.label_studio = self._label_studio(store)
        self.socket: socket.socket | None = None
        config = uvicorn.Config(
            self.app.asgi(), http=connections_of(limits.connections), ws="none", loop="asyncio",
            lifespan="off", log_config=None, access_log=False, server_header=False, backlog=BACKLOG,
            proxy_headers=False,
            timeout_keep_alive=int(limits.idle_s) or 1, h11_max_incomplete_event_size=32 << 10,
            timeout_graceful_shutdown=int(limits.whole_s) + 1,
        )  # fmt: skip
        super().__init__(config)

    def _label_studio(self, store: Store | None) -> LabelStudio | None:
        """Add the addresses that Label Studio asks, if they are wanted."""
        name = self.options.label_studio
        if name is None:
            return None
        if store is None or not self.desk.served.heads:
            raise BadName("--label-studio needs a head, and --store with the data set")
        after = self.options.retrain_after
        return LabelStudio(self.app, store.dataset(name), retrain_after=after)

    def listen(self) -> str:
        """Begin to listen; return the address.

        Raises
        ------
        BadName
            If the port is taken, or there is no such host.
        """
        host, port = self.options.host, self.options.port
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.socket = socket.socket(family, socket.SOCK_STREAM)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(address)
            self.socket.listen(BACKLOG)
        except OSError as error:
            self.close()
            raise BadName(
                f"cannot listen at {host}, port {port}: {error.strerror or error}; --port names "
                "another"
            ) from None
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.socket.getsockname()[1]}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `stop`, or a signal."""
        if self.socket is None:
            self.listen()
        assert self.socket is not None
        try:
            super().run([self.socket])
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the port and the encoders."""
        if self.socket is not None:
            self.socket.close()
        self.desk.close()

    def stop(self) -> None:
        """Stop soon, from any thread."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at Ctrl-C and SIGTERM; the second Ctrl-C does not wait."""
        if current_thread() is not main_thread():
            yield
            return
        asked = [one for one in STOPS if getsignal(one) is not SIG_IGN]
        before: dict[int, Any] = {one: signal(one, self.handle_exit) for one in asked}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal(one, handler)

    async def on_tick(self, counter: int) -> bool:
        """Look at the connections now and then."""
        if counter % _TICKS == 0:
            for one in list(self.server_state.connections):
                if isinstance(one, Connection) and one.is_overdue(self.options.limits):
                    one.transport.abort()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no further connection, answer what was asked, and end."""
        self.app.is_stopping = True
        for server in self.servers:
            server.close()
        # Who keeps a connection learns with the next answer that it ends; who has just sent a
        # request on one is answered.
        await asyncio.sleep(_LAST_WORDS_S)
        await super().shutdown(sockets)


def serve(
    heads: Mapping[str, FittedHead],
    options: ServeOptions | None = None,
    *,
    store: Store | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve heads over HTTP until Ctrl-C or SIGTERM.

    Raises
    ------
    BadName
        If other machines may ask without a token, or the port is taken.
    MissingExtra
        If starlette, uvicorn or python-multipart is not installed.
    """
    options = options or ServeOptions()
    server = Server(heads, options, store=store)
    address = server.listen()
    say(f"{len(heads)} heads at {address} (open {address}/docs); Ctrl-C ends it")
    if not is_local(options.host):
        say("the token and all items travel unencrypted: put a proxy with TLS before this server")
    server.run()
    say("stopped; every request that was taken has its answer")
