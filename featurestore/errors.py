"""What can go wrong.

FeatureStoreError
├── NotAStore (ValueError)              the folder is no store, or of a newer format
├── StoreCorrupt                        a shard and the log that names it disagree
│   └── BadBundle (ValueError)          a head's files are damaged, edited, or no head's
├── NotTrusted                          code that nobody asked for would have run
├── BadName (ValueError)                a name, an encoder spec or a choice that we do not know
├── BadQuery (ValueError)               an SQL text that is not one SELECT over our tables
├── StoreBusy                           another process changed what was being read
├── StoreUnreachable                    the object store did not answer, or refused
├── UnknownDataset (LookupError)        no data set of that name
├── UnknownView (LookupError)           the data set was never embedded by that encoder
├── UnknownSnapshot (LookupError)       a table has no such version
├── UnknownItem (LookupError)           no item of that id
├── UnknownSlice (LookupError)          no slice of that name
├── UnknownHead (LookupError)           no head of that name or id
├── UnknownRun (LookupError)            no run of that name
├── UnknownEncoder (LookupError)        no such family, model or weights
├── BadSource (ValueError)              a folder or table that cannot be embedded
│   ├── MissingColumn (LookupError)     the table has no column of that name
│   └── DuplicateIds                    two items would share an id
├── Undecodable (ValueError)            bytes that are no picture we can read
├── ModalityMismatch (ValueError)       an image encoder for texts, or the reverse
├── EncoderChanged (ValueError)         a spec now names other weights than its view holds
├── EncoderDrift                        the same weights give other vectors than before
├── EncoderFailed (RuntimeError)        an encoder raises on one item after the other
├── EncoderMismatch (ValueError)        vectors of two encoders would meet
├── ShapeMismatch (ValueError)          ids, vectors and dim do not fit
├── NotEnoughData (ValueError)          too few labelled items for what was asked
├── NoRoom                              what was asked for does not fit on the disk
├── TimeIsUp                            the minutes given are over, and nothing is whole
├── TooManyFailures                     more items failed than the caller allows
└── MissingExtra (ImportError)          an optional package is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeatureStoreError(Exception):
    """Base of everything this project raises on purpose; its message is for people."""


class NotAStore(FeatureStoreError, ValueError):
    """The folder is not a store, or a store of a newer format than this release reads."""


class StoreCorrupt(FeatureStoreError):
    """A shard and the log that names it disagree."""


class BadBundle(StoreCorrupt, ValueError):
    """A head's files are damaged, were edited, or hold what no head of ours holds."""


class NotTrusted(FeatureStoreError):
    """A store, a bundle or a model's folder names code that is not allowed to run."""


class BadName(FeatureStoreError, ValueError):
    """A data set name, an encoder spec or a choice that we do not know."""


class BadQuery(FeatureStoreError, ValueError):
    """An SQL text that is not one SELECT over our tables."""


class StoreBusy(FeatureStoreError):
    """Another process changed what was being read; nothing was kept."""


class StoreUnreachable(FeatureStoreError):
    """The object store that a store lies in did not answer, or refused; nothing is lost."""


class UnknownDataset(FeatureStoreError, LookupError):
    """No data set of that name."""


class UnknownView(FeatureStoreError, LookupError):
    """The data set was never embedded by that encoder."""


class UnknownSnapshot(FeatureStoreError, LookupError):
    """A table has no such version."""


class UnknownItem(FeatureStoreError, LookupError):
    """No item of that id."""


class UnknownRun(FeatureStoreError, LookupError):
    """No run of that name."""


class UnknownSlice(FeatureStoreError, LookupError):
    """No slice of that name."""


class UnknownHead(FeatureStoreError, LookupError):
    """No head of that name or id."""


class UnknownEncoder(FeatureStoreError, LookupError):
    """No such family, model or weights."""


class BadSource(FeatureStoreError, ValueError):
    """A folder or table that cannot be embedded."""


class BadTarget(FeatureStoreError, ValueError):
    """A vector database, or a table in it, that cannot be published to."""


class MissingColumn(BadSource, LookupError):
    """The table has no column of that name."""


class DuplicateIds(BadSource):
    """Two items would share an id."""


class Undecodable(FeatureStoreError, ValueError):
    """Bytes that cannot be read as a picture; the message says why."""


class ModalityMismatch(FeatureStoreError, ValueError):
    """An image encoder for texts, or the reverse."""


class EncoderChanged(FeatureStoreError, ValueError):
    """A spec now names other weights or preprocessing than its view holds."""


class EncoderDrift(FeatureStoreError):
    """The same weights give other vectors than when the view was made."""


class EncoderFailed(FeatureStoreError, RuntimeError):
    """An encoder raises on one item after the other: it is not the items."""


class EncoderMismatch(FeatureStoreError, ValueError):
    """Vectors of two encoders would meet."""


class ShapeMismatch(FeatureStoreError, ValueError):
    """Ids, vectors and dim do not fit together."""


class NotEnoughData(FeatureStoreError, ValueError):
    """Too few labelled items for what was asked."""


class NoRoom(FeatureStoreError):
    """What was asked for does not fit on the disk; nothing of it was written."""


class TimeIsUp(FeatureStoreError):
    """The minutes that were given are over before there was a result; what was done is kept."""


class TooManyFailures(FeatureStoreError):
    """More items failed than the caller allows; what was done is kept."""


class MissingExtra(FeatureStoreError, ImportError):
    """An optional package is not installed; the message holds the line to run."""


def nearest(name: str, known: Iterable[str], *, n: int = 5) -> str:
    """Say which known names are meant by a misspelt one.

    >>> nearest("neu_stel", ["mednist", "neu_steel"])
    "did you mean 'neu_steel'? known: mednist, neu_steel"
    """
    names = sorted(known)
    if not names:
        return "there are none yet"
    close = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {listed}"
