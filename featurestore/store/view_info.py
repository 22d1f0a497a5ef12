"""What encoder.json says of a view, and how the view looks in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.errors import BadQuery
from featurestore.store.commands import command_line
from featurestore.store.strip import N_SHOWN, strip
from featurestore.terms.shown import Shown
from featurestore.terms.specs import EncoderSpec, Modality
from featurestore.terms.taps import TapShape

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.store.dataset import DataSet


class ViewInfo(Shown):
    """The part of a view that is known without its vectors."""

    dataset: DataSet
    info: dict[str, Any]  # encoder.json

    @property
    def name(self) -> str:
        """``dataset@encoder``."""
        return f"{self.dataset.name}@{self.spec}"

    @property
    def spec(self) -> EncoderSpec:
        """The encoder."""
        return EncoderSpec.parse(self.info["spec"])

    @property
    def fingerprint(self) -> str:
        """The encoder's fingerprint."""
        return str(self.info["fingerprint"])

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.info["dim"])

    @property
    def layers(self) -> dict[str, int]:
        """Name → number of columns of the layers that stand side by side in a vector.

        ``{"3 cls": 384, "3 mean": 384, "output": 384}``; empty for a view of one layer.
        """
        return {
            " ".join(str(one[key]) for key in ("layer", "pool") if key in one) or "output": one[
                "dim"
            ]
            for one in self.info["chosen"].get("layers", ())
        }

    @property
    def tap(self) -> TapShape | None:
        """What it holds of an item where it is a tap; None for a view of vectors."""
        return TapShape.of(self.info["chosen"])

    def check_vectors(self) -> None:
        """Raise BadQuery for a tap, which has no vectors."""
        if self.tap is not None:
            words = ("--dataset", self.dataset.name, "-e", str(self.spec.untapped))
            raise BadQuery(
                f"{self.name} is a tap: it holds what the network computes up to a cut, which "
                "`--head finetune` trains on, and no vectors; in Python view.activations() reads "
                f"it. Vectors of this encoder: `{command_line('embed', *words)}`"
            )

    @property
    def modalities(self) -> frozenset[Modality]:
        """What the encoder embeds: two-tower encoders can be asked in words."""
        return frozenset(map(Modality, self.info["modalities"]))

    def items(self) -> pa.Table:
        """Return the items that have a vector."""
        raise NotImplementedError

    def about(self) -> str:
        """Name it, with the length of its vectors."""
        if (tap := self.tap) is not None:
            each = f"{tap.nbytes:,} bytes {'a token' if tap.is_ragged else 'an item'}"
            return f"{self.name}, a tap of {each}"
        return f"{self.name}, {self.dim:,} numbers a vector"

    def first_rows(self, n: int) -> list[dict[str, Any]]:
        """Return the first items, without their vectors."""
        found: list[dict[str, Any]] = self.items().slice(0, n).to_pylist()
        return found

    def strip(self) -> str:
        """Return the first items as HTML."""
        ids = self.items().column("item_id").slice(0, N_SHOWN).to_pylist()
        return strip(self.dataset, ids)
