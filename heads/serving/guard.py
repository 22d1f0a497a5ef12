"""Who may ask: the token, and pages of the web that a browser opened on this machine."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from typing import TYPE_CHECKING

from featurestore.errors import BadName
from heads.serving.limits import Refused

if TYPE_CHECKING:
    from starlette.requests import Request

LEAST_LETTERS = 16  # of a token
OPEN = frozenset({"/health"})  # answers without a token, and says nothing but that it is up
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_token(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token, or with one that is soon guessed.

    Raises
    ------
    BadName
    """
    if token is None and not is_local(host):
        raise BadName(
            f"--host {host} lets other machines ask: --token-file FILE names a file with a token "
            'that they must send ("Authorization: Bearer …")'
        )
    if token is not None and (len(token) < LEAST_LETTERS or not token.isascii()):
        raise BadName(
            f"the token must have {LEAST_LETTERS} ASCII characters or more: "
            "`openssl rand -hex 24` makes one"
        )


class Guard:
    """Looks at the first lines of a request, before its body is read."""

    def __init__(self, host: str, token: str | None) -> None:
        check_token(host, token)
        self.token = token
        self.names = _LOCAL_NAMES | {host} if is_local(host) else None

    def check(self, request: Request) -> None:
        """Refuse a request that may not be answered.

        Raises
        ------
        Refused
        """
        host = request.headers.get("host", "")
        if self.names is not None and _name_of(host) not in self.names:
            # A page of the web whose name was made to mean this machine (DNS rebinding).
            raise Refused(403, f"Host {host!r} is not this server's: use http://localhost")
        origin = request.headers.get("origin")
        is_foreign = origin is not None and origin.partition("://")[2] != host
        if is_foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(403, "pages of other sites may not ask this server")
        if request.url.path not in OPEN and not self.knows(request):
            raise Refused(401, "a token is needed", {"WWW-Authenticate": "Bearer"})

    def knows(self, request: Request) -> bool:
        """Whether a request has the token, or none is needed."""
        if self.token is None:
            return True
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":  # of any user: as Label Studio sends it
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self.token.encode())


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] or host
