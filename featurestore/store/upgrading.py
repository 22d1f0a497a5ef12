"""From one encoder to another: which is coming, which is the default, and how far it is.

``upgrade.json`` of a data set says it. A view that is coming is no part of `DataSet.views` until
it is whole, so that nothing takes half of it for all; whoever names it gets it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from featurestore.errors import BadName, StoreCorrupt
from featurestore.storage.dataset_folder import DatasetFolder, utc_now
from featurestore.storage.files import read_json, write_json
from featurestore.terms.specs import encoder_label

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet

FILE = "upgrade.json"
COMING, STOPPED, DONE, BACK = "coming", "stopped", "done", "back"


@dataclass(frozen=True)
class Upgrade:
    """An upgrade of a data set's default encoder."""

    old: str  # spec
    new: str
    state: str  # coming | stopped (rolled back before it was whole) | done | back (rolled back)
    when: str  # of the state: UTC, ISO 8601

    @property
    def hidden(self) -> str | None:
        """The encoder that nothing takes by itself, since it is not whole."""
        return self.new if self.state in (COMING, STOPPED) else None

    @property
    def default(self) -> str | None:
        """The encoder that somebody chose by it; None where nothing is decided."""
        return {DONE: self.new, BACK: self.old}.get(self.state)

    @property
    def is_back(self) -> bool:
        """Whether it was rolled back."""
        return self.state in (BACK, STOPPED)

    def at(self, state: str) -> Upgrade:
        """Return it in another state, as of now."""
        return replace(self, state=state, when=utc_now())


def read_upgrade(folder: DatasetFolder) -> Upgrade | None:
    """Return what upgrade.json says; None where there is none.

    Raises
    ------
    StoreCorrupt
        If it holds something else.
    """
    path = folder.path / FILE
    if not path.is_file():
        return None
    held: dict[str, Any] = read_json(path)
    try:
        found = Upgrade(**{name: held[name] for name in ("old", "new", "state", "when")})
    except KeyError as error:
        raise StoreCorrupt(f"{path} lacks {error}: delete it, and upgrade again") from None
    if found.state not in (COMING, STOPPED, DONE, BACK):
        raise StoreCorrupt(f"{path} has state {found.state!r}: delete it, and upgrade again")
    return found


def begin(dataset: DataSet, old: str, new: str) -> None:
    """Note that an encoder is coming, before its first vector is written."""
    _write(dataset, Upgrade(old, new, COMING, "").at(COMING))


@dataclass(frozen=True)
class Progress:
    """How far an encoder that is coming is."""

    n_done: int  # items with a vector by it, or a failure
    n_all: int  # with a vector by the old one
    n_failed: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.n_done / self.n_all) if self.n_all else 1.0


def progress_of(dataset: DataSet, upgrade: Upgrade) -> Progress:
    """Count how far the new encoder is."""
    views = {str(one.spec): one.now() for one in dataset.views(coming=True)}
    old, new = views.get(upgrade.old), views.get(upgrade.new)
    n_all = 0 if old is None else old.n_rows
    if new is None:
        return Progress(0, n_all, 0)
    failed = dataset.failures().column("fingerprint").to_pylist()
    n_failed = sum(one == new.fingerprint for one in failed)
    return Progress(new.n_rows + n_failed, n_all, n_failed)


def finish(dataset: DataSet) -> Progress:
    """Make the new encoder the default, if it is whole; one write says so.

    Raises
    ------
    BadName
        If none is coming, or items lack a vector by it.
    """
    upgrade = read_upgrade(dataset.folder)
    if upgrade is None or upgrade.state != COMING:
        raise BadName(f"nothing is coming for {dataset.name!r}: begin with `upgrade … --go`")
    progress = progress_of(dataset, upgrade)
    if progress.n_done < progress.n_all:
        raise BadName(
            f"{encoder_label(upgrade.new)} has {progress.n_done:,} of {progress.n_all:,} items: "
            "run the same line again to go on"
        )
    _write(dataset, upgrade.at(DONE))
    return progress


def roll_back(dataset: DataSet) -> Upgrade:
    """Make the old encoder the default again; the vectors of both stay.

    Raises
    ------
    BadName
        If there is nothing to roll back, or the old vectors are gone.
    """
    upgrade = read_upgrade(dataset.folder)
    if upgrade is None or upgrade.state in (BACK, STOPPED):
        raise BadName(f"{dataset.name!r} has no upgrade to roll back")
    if upgrade.old not in {str(one.spec) for one in dataset.views(coming=True)}:
        raise BadName(f"{upgrade.old} was dropped: embed it again, then roll back")
    back = upgrade.at(STOPPED if upgrade.state == COMING else BACK)
    _write(dataset, back)
    return back


def _write(dataset: DataSet, upgrade: Upgrade) -> None:
    with dataset.folder.locked("dataset"):
        write_json(dataset.folder.path / FILE, asdict(upgrade))
