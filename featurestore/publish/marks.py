"""The mark: what a table of a vector database holds of a store. It lies beside the table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Self

from featurestore.errors import BadTarget

MARKS = "featurestore_marks"  # the table of marks
_FORMAT = 1


@dataclass(frozen=True)
class Mark:
    """What was published into a table."""

    dataset: str
    encoder: str  # its spec
    fingerprint: str
    dim: int
    columns: dict[str, str]  # name → Arrow type
    snapshot: str  # the state that the table has, or was on its way to
    state: str  # a digest of that state: a restored backup may reuse version numbers
    n_erasures: int  # how often items had been erased from the data set
    n_rows: int
    is_whole: bool  # False while rows are on their way, and after a kill
    written: str  # UTC, ISO 8601
    format: int = _FORMAT

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        BadTarget
            If it is damaged, or of a newer release.
        """
        try:
            found = json.loads(text)
            number = found["format"]
            mark = cls(**{one.name: found[one.name] for one in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise BadTarget(
                f"the mark of {where} in {MARKS} is damaged ({error}): name another --table, or "
                "delete the table and its mark"
            ) from None
        if number != _FORMAT:
            raise BadTarget(
                f"{where} was published by a newer featurestore (mark of format {number}, this "
                f"one knows {_FORMAT}): pip install --upgrade featurestore"
            )
        return mark

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def check(self, dataset: str, encoder: str, fingerprint: str, where: str) -> None:
        """Raise BadTarget if the table holds vectors of something else."""
        if self.dataset == dataset and self.fingerprint == fingerprint:
            return
        same = self.encoder == encoder and self.fingerprint != fingerprint
        theirs, ours = (
            (f"{set_}@{spec}" + (f" with fingerprint {print_[:12]}" if same else ""))
            for set_, spec, print_ in (
                (self.dataset, self.encoder, self.fingerprint),
                (dataset, encoder, fingerprint),
            )
        )
        raise BadTarget(
            f"{where} holds {theirs}, and you publish {ours}: vectors of two encoders, or items of "
            "two data sets, do not belong into one table. Name another with --table"
        )
