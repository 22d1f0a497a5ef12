"""Which outputs of a network a spec means: its own, or that after some blocks, pooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import BadName
from featurestore.terms.specs import ALL_LAYERS, EncoderSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Depth:
    """Which output of a network is meant: its own, or that after ``layer`` blocks, pooled."""

    layer: int | None = None  # 1 is the first block, -1 the last
    pool: str | None = None  # cls | mean | pooler; None: what the network was trained with

    @classmethod
    def of(cls, spec: EncoderSpec, pools: Sequence[str]) -> Depth:
        """Read ``#layer=…,pool=…``."""
        text, pool = spec.option("layer", ""), spec.option("pool", "") or None
        if text and not text.removeprefix("-").isdecimal():
            raise BadName(
                f"layer={text} in {spec}: expected a whole number such as 6 or -1, "
                "several such as 3+6+-1, or all"
            )
        if pool is not None and pool not in pools:
            raise BadName(f"pool={pool} in {spec}: expected one of {', '.join(pools)}")
        return cls(int(text) if text else None, pool)

    def checked(self, spec: EncoderSpec, n_layers: int, first: int = 1) -> Depth:
        """Return this depth counted from the front; ``first`` is 0 where embeddings count.

        Raises
        ------
        BadName
            If the network has fewer layers.
        """
        if self.layer is None:
            return self
        layer = self.layer + n_layers + 1 if self.layer < 0 else self.layer
        if not first <= layer <= n_layers:
            raise BadName(
                f"layer={self.layer} in {spec}: expected {first} to {n_layers}, "
                f"or -1 to {first - n_layers - 1} counted from the end"
            )
        return Depth(layer, self.pool)

    @property
    def chosen(self) -> dict[str, Any]:
        """What goes into the fingerprint: nothing for a network's own output."""
        return {k: v for k, v in (("layer", self.layer), ("pool", self.pool)) if v is not None}


Depths = tuple[Depth, ...]  # of one encoder, side by side in its vectors
OWN: Depths = (Depth(),)  # what the network itself gives


def depths_of(
    specs: Sequence[EncoderSpec],
    pools: Sequence[str],
    n_layers: Callable[[], int],
    *,
    first: int = 1,
    has_class_token: bool = False,
) -> list[Depths]:
    """Read which depths each spec means, counted from the front.

    One with several layers (``#layer=3+6+-1`` or ``all``) means each of them, by its class token
    and by the mean of its positions where the network has both, and last the network's own output.

    Parameters
    ----------
    specs : sequence of EncoderSpec
        All on one network.
    pools : sequence of str
        What ``#pool=`` may be.
    n_layers : callable
        Counts the network's layers; called where a spec names one.
    first : int
        0 where what the first block gets counts as a layer.
    has_class_token : bool

    Raises
    ------
    BadName
        If a spec means something else, or the network has fewer layers.
    """
    found: list[Depths] = []
    for spec in specs:
        if not spec.has_layers:
            depth = Depth.of(spec, pools)
            is_inside = depth.layer is not None
            found.append((depth.checked(spec, n_layers(), first) if is_inside else depth,))
            continue
        n, named = n_layers(), spec.option("layer", "")
        asked = [str(i) for i in range(1, n + 1)] if named == ALL_LAYERS else named.split("+")
        pool = spec.option("pool", "")
        both = ["cls", "mean"] if has_class_token else [""]
        one_each = [
            Depth.of(one, pools).checked(spec, n, first)
            for layer in asked
            for one_pool in ([pool] if pool else both)
            for one in [
                spec.with_option("layer", layer or named).with_option("pool", one_pool or None)
            ]
        ]
        found.append((*dict.fromkeys(one_each), Depth()))
    return found


def pool_tokens(
    spatial: torch.Tensor, prefix: torch.Tensor | None, pool: str | None
) -> torch.Tensor:
    """Pool one layer: (n, length, dim) tokens or (n, dim, height, width) maps to (n, dim).

    ``cls`` takes the first prefix token, ``mean`` the mean over the others; by default the
    class token where there is one.
    """
    has_cls = prefix is not None and prefix.shape[1] > 0
    if pool == "cls" or (pool is None and has_cls):
        if not has_cls:
            raise BadName("pool=cls: this network has no class token; use pool=mean")
        assert prefix is not None
        return prefix[:, 0]
    return spatial.mean(dim=(2, 3)) if spatial.ndim == 4 else spatial.mean(dim=1)
