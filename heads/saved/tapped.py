"""What heads read that retrain a network: its activations at a cut, and the blocks above."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from featurestore.encoders import encode_now
from featurestore.errors import BadName
from featurestore.terms.activations import Activations
from featurestore.terms.specs import EncoderSpec
from featurestore.terms.taps import AUTO
from heads.catalogue.entry import HeadEntry
from heads.labels.pace import pace
from heads.labels.views import AnyView
from heads.saved.concat import stored

if TYPE_CHECKING:
    from featurestore.encoders.torch_network import TorchEncoder
    from featurestore.pipeline.report import Progress
    from featurestore.store.view import View

READS_TAP = "tap"


def upper_from(encoder: TorchEncoder) -> Callable[[], Any]:
    """Return what copies the blocks above an encoder's cut."""

    def upper() -> Any:
        from featurestore.encoders.upper_part import upper_of

        return upper_of(encoder)

    return upper


def can_be_cut(view: AnyView) -> bool:
    """Whether the encoder of a view has blocks that can be retrained."""
    from featurestore.encoders.families import families

    family = families().get(view.spec.family)
    return family is not None and "tap" in family.options and len(stored(view)) == 1


def no_cut(view: AnyView, head: str) -> BadName:
    """Return the error for a head that retrains, of an encoder that has no blocks."""
    from featurestore.encoders.families import families

    able = ", ".join(f"{name}:" for name, one in families().items() if "tap" in one.options)
    if len(stored(view)) > 1:
        return BadName(f"head {head} retrains one encoder, and {view.name} holds several")
    return BadName(
        f"head {head} retrains the upper blocks of a network, and {view.spec.label} has none; "
        f"encoders of {able} have some"
    )


@dataclass(frozen=True, eq=False)
class Tapped:
    """One encoder's activations of some items, and the blocks above its cut."""

    cut: int
    activations: Activations
    upper: Callable[[], Any]


def tapped(view: View, entry: HeadEntry, ids: NDArray[Any]) -> Tapped:
    """Return the activations of items (n,), made or completed where the store lacks some.

    Raises
    ------
    UnknownItem
        If an item cannot be read or encoded any more.
    NoRoom
        If the disk has no room for them.
    """
    spec = wanted_tap(view, entry)
    hear = pace()

    def tell(now: Progress) -> None:
        hear.tell(f"making a tap of {view.spec.label}: {now.n_done:,} of {now.n_total:,} items")

    names = ids.astype(str).tolist()
    tap = view.dataset.embed_tap(spec, names, progress=tell, say=hear.say)
    info = tap.info
    encoder = encode_now.open_encoder(info, trust=tap.trust)
    assert tap.tap is not None, "embed_tap returns a tap"
    return Tapped(tap.tap.cut, tap.activations(names), upper_from(encoder))  # type: ignore[arg-type]


def wanted_tap(view: AnyView, entry: HeadEntry) -> EncoderSpec:
    """Return the spec of the tap that a head reads: one that is there, if the head may choose."""
    (one,) = stored(view)
    is_text = one.dataset.modality == "text"
    spec = one.spec.with_option("tap", entry.tap)
    spec = spec.with_option("variants", None if is_text else entry.variants or None)
    if entry.tap == AUTO:
        for tap in one.dataset.taps():
            if tap.spec.untapped == one.spec and tap.spec.option("variants", "") == (
                spec.option("variants", "")
            ):
                return tap.spec
    return spec
