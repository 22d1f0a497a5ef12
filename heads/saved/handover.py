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
from featurestore.storage.remote import RemotePath, as_path
from featurestore.terms.specs import EncoderSpec
from heads.saved.bundle import FittedHead, load_bundle
from heads.saved.hub import README, SCHEME, HubPlace, commit_of, fetch, send
from heads.saved.model_card import model_card, tells, training_data_in
from heads.saved.tapped import READS_TAP


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
    training_data: bool = False,
    dry_run: bool = False,
) -> Push:
    """Send a bundle with its README.md to ``hf://org/name``, a folder or ``s3://…``.

    A repository that is not there is made, private unless asked otherwise. On the Hub the token is
    that of its own login (``hf auth login``, or HF_TOKEN), the address its own or HF_ENDPOINT.

    Parameters
    ----------
    licence : str, optional
        As the Hub names it; without it README.md says that nobody has said.
    training_data : bool
        Also send a head that keeps vectors or words of training items, as kNN and tfidf do.
    dry_run : bool
        Send nothing, and return what would be sent.

    Raises
    ------
    BadName
        If the place cannot be read, holds something else, or the head keeps training
        data; or if a repository is public and ``private`` is asked for.
    StoreUnreachable
        If the Hub cannot be reached, or refuses.
    """
    if (kept := training_data_in(head.estimator)) and not (training_data or dry_run):
        raise BadName(
            f"{kept}: --training-data sends it, or train another head (logistic keeps none)"
        )
    hub = HubPlace.parse(place) if place.startswith(SCHEME) else None
    head = without_path(head)
    # A folder of this machine is not a place for others.
    said = place if hub is not None or isinstance(as_path(place), RemotePath) else "bundle/"
    readme = model_card(head, said, licence=licence)
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


def without_path(head: FittedHead) -> FittedHead:
    """Return a head whose encoder is named by the last part of its folder, if it has a folder.

    Several encoders are names inside of a head, too: those stay.
    """
    card = head.card
    if len(head.blocks) != 1 or card.metadata_columns or card.reads not in ("vectors", READS_TAP):
        return head
    (block,) = head.blocks
    folder = EncoderSpec.parse(block["spec"]).local_dir
    if folder is None or not folder.name:
        return head
    long, short = str(folder), folder.name
    notes = [note.replace(long, short) for note in card.notes]
    card = replace(card, encoder=card.encoder.replace(long, short), notes=notes)
    return replace(head, card=card, blocks=({**block, "spec": block["spec"].replace(long, short)},))


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
