"""What can go wrong between us and a table's log, in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from featurestore.errors import StoreCorrupt, StoreUnreachable
from featurestore.storage.exhausted import naming
from featurestore.storage.log_files import missing_commit
from featurestore.storage.remote import RemotePath, StorePath, delta_options


def check_log(path: StorePath, version: int | None) -> None:
    """Refuse a log that lacks a commit."""
    if (lost := missing_commit(path, version)) is not None:
        raise StoreCorrupt(
            f"{lost} is gone, cut off, or holds no action, so this table would show an older "
            "state: `featurestore store repair` puts it back"
        )


@contextmanager
def asked(path: StorePath) -> Iterator[None]:
    """Turn delta-rs network errors into StoreUnreachable; name the table on a full disk."""
    try:
        with naming(path):
            yield
    except OSError as error:
        if isinstance(path, RemotePath):
            raise StoreUnreachable(f"{path}: {said(error)}") from None
        raise


def log_options(path: StorePath) -> dict[str, str] | None:
    """Return what delta-rs is told of where a table lies."""
    return delta_options() if isinstance(path, RemotePath) else None


def said(error: Exception) -> str:
    """Return what delta-rs said in one line, without the colors of a terminal."""
    plain = re.sub(r"\x1b\[\d*m|↳", "", str(error))
    return " ".join(plain.split())[:300]
