"""Files of bundles on the Hugging Face Hub: sent to a repository, fetched into a folder.

The one file of `heads` that knows huggingface_hub.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import BadBundle, BadName, StoreBusy, StoreUnreachable, UnknownHead
from featurestore.storage.files import make_folder, publish, temporary_beside
from featurestore.storage.user_cache import cache_dir, recall, remember
from heads.saved import sealed
from heads.saved.archive import MOST_BYTES
from heads.saved.unlike import FILE as UNLIKE_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
README = "README.md"
NEEDED = ("card.json", "encoder.json", "head.skops")
MAY_BE = (*NEEDED, UNLIKE_FILE, sealed.TOP_FILE, README)
_OF_THE_HUB = (".gitattributes", ".gitignore")
_NAME = re.compile(r"(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})(?:@(?P<revision>[\w./-]{1,200}))?")
_MOST_README = 1 << 20


@dataclass(frozen=True)
class HubPlace:
    """A repository on the Hub, and a revision of it."""

    repo: str  # org/name
    revision: str | None = None  # a branch, a tag or a commit; None: main

    @classmethod
    def parse(cls, text: str) -> HubPlace:
        """Read ``hf://org/name[@revision]``.

        Raises
        ------
        BadName
        """
        found = _NAME.fullmatch(text.removeprefix(SCHEME))
        if not text.startswith(SCHEME) or found is None or ".." in text:
            raise BadName(f"{text!r}: expected hf://ORG/NAME, or hf://ORG/NAME@REVISION")
        return cls(found["repo"], found["revision"])

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def send(place: HubPlace, folder: Path, *, private: bool) -> tuple[str, bool]:
    """Commit the files of a folder to a repository, which is made where it is not there.

    Returns
    -------
    commit : str
    is_new : bool
        Whether the repository was made.

    Raises
    ------
    BadName
        If it holds something else than a bundle, or is public and ``private`` is asked for.
    StoreBusy
        If another process pushed meanwhile.
    StoreUnreachable
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, files = _api(), sorted(one.name for one in folder.iterdir())
    with _asked(place):
        if is_new := not api.repo_exists(place.repo):
            api.create_repo(place.repo, private=private)
        elif place.revision not in (None, "main"):
            api.create_branch(place.repo, branch=str(place.revision), exist_ok=True)
        info = api.model_info(place.repo, revision=None if is_new else place.revision)
    there = [one.rfilename for one in info.siblings or []]
    if others := sorted(set(there) - {*MAY_BE, *_OF_THE_HUB}):
        raise BadName(
            f"{place} holds something else than a bundle ({', '.join(others[:5])}): name "
            "another repository"
        )
    if private and not info.private:
        raise BadName(
            f"{SCHEME}{place.repo} is public, so everyone would see it; nothing was sent: add "
            "--public if that is meant (private=False in Python)"
        )
    if is_new and place.revision not in (None, "main"):
        with _asked(place):
            api.create_branch(place.repo, branch=str(place.revision), exist_ok=True)
    with _asked(place):
        done = api.create_commit(
            place.repo,
            [
                *(CommitOperationAdd(name, str(folder / name)) for name in files),
                *(CommitOperationDelete(n) for n in there if n in MAY_BE and n not in files),
            ],
            commit_message="featurestore bundle",
            revision=place.revision,
            parent_commit=info.sha,  # refused if another process pushed meanwhile
        )
    return str(done.oid), is_new


def cached(place: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """Return the folder of this machine that holds a bundle of the Hub, fetched if it is not there.

    It holds one commit. Where the Hub cannot be reached, the commit that a branch had last is taken
    and said.

    Raises
    ------
    UnknownHead, BadBundle, StoreUnreachable
    """
    hub = HubPlace.parse(place)
    try:
        revision = commit_of(hub)
        remember("hub bundles", f"{_endpoint()} {hub}", revision)
    except StoreUnreachable as error:
        known = recall("hub bundles", f"{_endpoint()} {hub}")
        if not isinstance(known, str) or not _is_commit(known) or not _kept(hub, known).is_dir():
            raise
        say(f"{error}; the bundle is as it was fetched last ({known[:8]})")
        revision = known
    folder = _kept(hub, revision)
    if not folder.is_dir():
        fetch(hub, revision, folder, say)
    say(f"{hub.repo} at {revision[:8]}: {SCHEME}{hub.repo}@{revision} always means this revision")
    return folder


def _kept(hub: HubPlace, revision: str) -> Path:
    where = hashlib.sha256(_endpoint().encode()).hexdigest()[:8]
    owner, _, name = hub.repo.partition("/")
    return cache_dir() / "bundles" / where / owner / revision / name


def _is_commit(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", text) is not None


def commit_of(hub: HubPlace) -> str:
    """Return the commit that a revision names; one that is written out needs no question."""
    if hub.revision is not None and _is_commit(hub.revision):
        return hub.revision
    with _asked(hub):
        sha = str(_api().model_info(hub.repo, revision=hub.revision).sha)
    if not _is_commit(sha):
        raise StoreUnreachable(f"{hub}: {_endpoint()} names no commit")
    return sha


def fetch(hub: HubPlace, revision: str, target: Path, say: Callable[[str], None]) -> None:
    """Fetch the files of one commit, look at them, and put them in place."""
    from huggingface_hub import hf_hub_download

    with _asked(hub):
        there = {
            one.path: one.size
            for one in _api().list_repo_tree(hub.repo, revision=revision)
            if hasattr(one, "size")
        }
    if missing := [name for name in NEEDED if name not in there]:
        raise UnknownHead(f"{hub} holds no bundle: it lacks {', '.join(missing)}")
    if others := sorted(set(there) - {*MAY_BE, *_OF_THE_HUB}):
        say(f"left where they are, since no bundle has them: {', '.join(others[:10])}")
    wanted = [name for name in MAY_BE if name in there]
    for name in wanted:
        most = _MOST_README if name == README else MOST_BYTES
        if there[name] > most:
            raise BadBundle(f"{hub}: {name} has {there[name]:,} bytes, expected {most:,} at most")
    make_folder(target.parent)
    with temporary_beside(target) as temporary:
        temporary.mkdir()
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pull-") as loaded:
            for name in wanted:
                with _asked(hub):
                    path = hf_hub_download(
                        hub.repo, name, revision=revision, local_dir=loaded, endpoint=_endpoint()
                    )
                Path(path).replace(temporary / name)
        card = sealed.card_in(temporary)
        sealed.check_sums(temporary, card)
        sealed.familiar_in(temporary, card, sealed.blocks_in(temporary, card))
        if target.is_dir():
            target.rmdir()  # an empty one
        publish(temporary, target)


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint(), library_name="featurestore")


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


@contextmanager
def _asked(hub: HubPlace) -> Iterator[None]:
    """Turn what the Hub's library raises into errors of ours, which say what to do."""
    from huggingface_hub import errors

    # Of httpx or httpx2, as the release has it: the base of what a connection raises.
    of_connections: type[Exception] = errors.HfHubHTTPError.__mro__[1]
    try:
        yield
    except errors.RepositoryNotFoundError:
        raise UnknownHead(
            f"{_endpoint()} has no {hub.repo}, or only for those who may see it: `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UnknownHead(f"{hub.repo} has no revision {hub.revision!r}") from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (409, 412):
            raise StoreBusy(
                f"{hub} was changed by another process meanwhile; nothing was sent: look at it, "
                "and push again"
            ) from None
        raise StoreUnreachable(f"{_endpoint()} refused {hub}: {_reason(error)}") from None
    except errors.LocalTokenNotFoundError:
        raise StoreUnreachable(f"{hub} needs a login: `hf auth login`, or HF_TOKEN") from None
    except (of_connections, errors.OfflineModeIsEnabled, OSError) as error:
        raise StoreUnreachable(f"{_endpoint()} cannot be reached: {_reason(error)}") from None
    except RuntimeError as error:  # an upload that failed is wrapped in one
        reason = _reason(error.__cause__ or error)
        raise StoreUnreachable(f"{hub}: {str(error).rstrip('.')}: {reason}") from None


def _reason(error: BaseException) -> str:
    """Return an error in a line, without the token."""
    from huggingface_hub import get_token

    response: Any = getattr(error, "response", None)
    status = "" if response is None else f"{response.status_code} "
    said = " ".join(str(error).split())
    if token := get_token():
        said = said.replace(token, "…")
    return status + (said[:200] or type(error).__name__)
