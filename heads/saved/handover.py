"""Bundles given to others and taken from them: on the Hub, in a folder, in an object store.

Nothing is sent or fetched but to and from the place that is named.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from featurestore.errors import BadName
from featurestore.storage.files import write_file
from featurestore.storage.remote import as_path
from heads.saved.bundle import FittedHead, load_bundle
from heads.saved.hub import README, SCHEME, HubPlace, commit_of, fetch, send
from heads.saved.model_card import holds_training_vectors, model_card, tells


@dataclass(frozen=True)
class Push:
    """What is sent, or would be."""

    place: str
    files: dict[str, int]  # name → bytes
    readme: str
    tells: list[str]  # what the files give away
    revision: str | None = None  # the commit on the Hub; None elsewhere, and of a dry run
    private: bool | None = None  # a repository that was made for it


def push(
    head: FittedHead,
    place: str,
    *,
    licence: str | None = None,
    private: bool = True,
    training_vectors: bool = False,
    dry_run: bool = False,
) -> Push:
    """Send a bundle with its README.md to ``hf://org/name``, a folder or ``s3://…``.

    A repository that is not there is made, private unless asked otherwise. On the Hub the token is
    that of its own login (``hf auth login``, or HF_TOKEN), the address its own or HF_ENDPOINT.

    Parameters
    ----------
    licence : str, optional
        As the Hub names it; without it README.md says that nobody has said.
    training_vectors : bool
        Also send a head that keeps all training vectors, as kNN does.
    dry_run : bool
        Send nothing, and return what would be sent.

    Raises
    ------
    BadName
        If the place cannot be read, holds something else, or the head keeps training vectors.
    StoreUnreachable
        If the Hub cannot be reached, or refuses.
    """
    if (kept := holds_training_vectors(head.estimator)) and not (training_vectors or dry_run):
        raise BadName(
            f"{kept} keeps all training vectors, and something of each item is in its vector: "
            "--training-vectors sends them, or train another head (logistic keeps none)"
        )
    hub = HubPlace.parse(place) if place.startswith(SCHEME) else None
    readme = model_card(head, str(place), licence=licence)
    with tempfile.TemporaryDirectory(prefix="featurestore-push-") as folder:
        made = Path(str(head.save(Path(folder) / "bundle")))
        write_file(made / README, readme.encode())
        files = {one.name: one.stat().st_size for one in sorted(made.iterdir())}
        found = Push(place, files, readme, tells(head))
        if dry_run:
            return found
        if hub is not None:
            commit, is_new = send(hub, made, private=private)
            return replace(found, revision=commit, private=private if is_new else None)
    target = head.save(as_path(place))
    write_file(target / README, readme.encode())
    return found


def pull(place: str, folder: str | Path, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Fetch a bundle into a folder: from ``hf://org/name[@revision]``, ``s3://…`` or a folder.

    Known file names of safe formats alone are fetched, and looked at before the folder is there.

    Raises
    ------
    FileExistsError
        If the folder holds something.
    UnknownHead, BadBundle
        If there is no bundle, or it is damaged or of a newer release.
    StoreUnreachable
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} holds something: name another folder")
    if not place.startswith(SCHEME):
        return Path(str(load_bundle(place).save(target)))
    hub = HubPlace.parse(place)
    revision = commit_of(hub)
    fetch(hub, revision, target, say)
    say(f"{hub.repo} at {revision}")
    return target
