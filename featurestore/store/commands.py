"""Lines to type: words quoted for a shell, with the store where it is not the default one."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.store.settings_file import settings_of

if TYPE_CHECKING:
    from featurestore.storage.remote import StorePath

DEFAULT_STORE = "featurestore-data"
VARIABLE = "FEATURESTORE_STORE"


def command_line(*words: str, store: StorePath | str | None = None) -> str:
    """Return a command of this program that does the same when it is typed here.

    >>> command_line("train", "my photos", "-e", "baseline:pixels", store="/data/store")
    "featurestore train 'my photos' -e baseline:pixels --store /data/store"
    """
    at = () if store is None or is_default(store) else ("--store", str(store))
    return shlex.join(["featurestore", *words, *at])


def is_default(store: StorePath | str) -> bool:
    """Whether commands find this store without ``--store``."""
    named = os.environ.get(VARIABLE)
    if not named:
        settings = settings_of()
        named = None if settings is None else settings.store
    return _written(named or DEFAULT_STORE) == _written(str(store))


def _written(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.abspath(Path(path).expanduser())  # noqa: PTH100, links stay
