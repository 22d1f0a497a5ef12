"""The blocks of any network, found by watching one pass: where it can be cut in two.

Nothing is known of any architecture here: blocks are what lies in a list, or bears a number, runs
once and in order, and does most of the computation.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Call:
    """One call of a module in the pass that was watched."""

    begin: int  # of a count of begins and ends
    end: int
    flops: int
    flops_after: int  # of the whole pass, once it has ended
    gave: Any  # its output with shapes in place of tensors; None for anything but them

    @property
    def shape(self) -> torch.Size | None:
        """The shape of what it gave, or of the first of several."""
        gave = self.gave[0] if isinstance(self.gave, list) and self.gave else self.gave
        return gave if isinstance(gave, torch.Size) else None


@dataclass(frozen=True)
class Blocks:
    """The blocks of a network, in their order, and what ran beside them."""

    network: nn.Module
    modules: list[nn.Module]
    calls: dict[nn.Module, list[Call]]
    flops: int  # of the whole pass

    def __len__(self) -> int:
        return len(self.modules)

    def shape(self, cut: int) -> tuple[int, ...]:
        """Return the shape of one item after ``cut`` blocks."""
        shape = self.calls[self.modules[cut - 1]][0].shape
        assert shape is not None
        return tuple(shape[1:])

    def share_above(self, cut: int) -> float:
        """Return which share of the computation follows after ``cut`` blocks."""
        return 1 - self.calls[self.modules[cut - 1]][0].flops_after / max(self.flops, 1)

    def above(self, cut: int, *, all_below: bool) -> tuple[nn.Module, Slot]:
        """Copy the network without the first ``cut`` blocks, which give what lies in the slot.

        Parameters
        ----------
        cut : int
        all_below : bool
            Leave out as well what runs before them, a stem or an embedding, where only its
            shape seems to matter.
        """
        slot = Slot()
        stubs: dict[int, nn.Module] = {
            id(one): _posing_as(one, _Given(slot, self.calls[one][0].gave))
            for one in self.modules[:cut]
        }
        if all_below:
            like = self.shape(cut)
            stubs |= {
                id(one): _posing_as(one, _Zeros(slot, shape, like))
                for one, shape in self._before(cut)
            }
        return deepcopy(self.network, stubs), slot

    def _before(self, cut: int) -> Iterator[tuple[nn.Module, torch.Size]]:
        """Yield what ended before the cut, is no block, and gave one tensor an item."""
        end = self.calls[self.modules[cut - 1]][0].end
        own = {inner for block in self.modules for inner in block.modules()}
        taken: set[nn.Module] = set()
        for one in self.network.modules():  # the outer ones first
            calls = self.calls.get(one)
            if not calls or one in taken or one in own or len(calls) > 1 or calls[0].end > end:
                continue
            shape = calls[0].gave
            if isinstance(shape, torch.Size) and len(shape) > 2 and shape[0] == N_PROBES:
                taken |= set(one.modules())
                yield one, shape


N_PROBES = 2  # items of the pass that is watched


def watch(network: nn.Module, run: Callable[[], object]) -> list[Blocks]:
    """Find the blocks of a network in one pass over `N_PROBES` items.

    Returns
    -------
    list of Blocks
        Modules in a list, or of one name with numbers behind it, before those that merely follow
        each other; those that do most of the computation first, and none that does less than
        half of it.
    """
    calls: dict[nn.Module, list[Call]] = defaultdict(list)
    begun: dict[nn.Module, list[tuple[int, int]]] = defaultdict(list)
    counter = FlopCounterMode(display=False)
    tick = iter(range(10**9))

    def begins(module: nn.Module, _: object) -> None:
        begun[module].append((next(tick), counter.get_total_flops()))

    def ends(module: nn.Module, _: object, output: object) -> None:
        begin, flops = begun[module].pop()
        after = counter.get_total_flops()
        calls[module].append(Call(begin, next(tick), after - flops, after, _shapes(output)))

    hooks = []
    for one in network.modules():
        hooks += [one.register_forward_pre_hook(begins), one.register_forward_hook(ends)]
    try:
        with torch.no_grad(), counter:
            run()
    finally:
        for hook in hooks:
            hook.remove()

    def less(group: list[nn.Module]) -> int:
        return -sum(calls[one][0].flops for one in group)

    in_order = ([one for one in module.children() if _hands_on(one, calls)] for module in calls)
    return [
        Blocks(network, group, dict(calls), counter.get_total_flops())
        for groups in (_groups(network), in_order)
        for group in sorted((one for one in groups if _is_chain(one, calls)), key=less)
        if -2 * less(group) >= counter.get_total_flops()
    ]


def _shapes(output: object) -> Any:
    if isinstance(output, torch.Tensor):
        return output.shape
    if isinstance(output, (tuple, list)):
        return [one.shape if isinstance(one, torch.Tensor) else one for one in output]
    return None


def _groups(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield what stands in a list, and what has one name with a number behind it (layer1, …)."""
    for one in network.modules():
        if isinstance(one, (nn.ModuleList, nn.Sequential)):
            yield list(one)
        numbered: dict[str, list[nn.Module]] = defaultdict(list)
        for name, child in one.named_children():
            if found := re.fullmatch(r"(.*\D)\d+", name):
                numbered[found[1]].append(child)
        yield from numbered.values()


def _is_chain(group: list[nn.Module], calls: dict[nn.Module, list[Call]]) -> bool:
    """Whether several modules run one after another."""
    if len(group) < 2 or not all(_hands_on(one, calls) for one in group):
        return False
    each = [calls[one][0] for one in group]
    return all(one.end < another.begin for one, another in pairwise(each))


def _hands_on(module: nn.Module, calls: dict[nn.Module, list[Call]]) -> bool:
    """Whether a module runs once, and gives maps or tokens."""
    its = calls.get(module, [])
    return len(its) == 1 and its[0].shape is not None and len(its[0].shape) > 2


@dataclass(eq=False)
class Slot:
    """Where the stubs of a copied network find the activations of the batch."""

    batch: torch.Tensor | None = field(default=None, repr=False)


def _posing_as(module: nn.Module, stub: nn.Module) -> nn.Module:
    """Give a stub the plain attributes of a module: some networks ask a block for its kind."""
    plain = {k: v for k, v in vars(module).items() if isinstance(v, (str, int, float))}
    vars(stub).update({k: v for k, v in plain.items() if k not in vars(stub)})
    return stub


class _Given(nn.Module):
    """In place of a block below the cut: gives what lies in the slot, as the block gave it."""

    def __init__(self, slot: Slot, gave: object) -> None:
        super().__init__()
        self.slot = slot
        self.rest = None
        if isinstance(gave, list):
            self.rest = tuple(None if isinstance(one, torch.Size) else one for one in gave[1:])

    def forward(self, *_: object, **__: object) -> Any:
        """Return the activations, in a tuple where the block gave one."""
        return self.slot.batch if self.rest is None else (self.slot.batch, *self.rest)


class _Zeros(nn.Module):
    """In place of what runs before the blocks: zeros, which take no memory and no time."""

    def __init__(self, slot: Slot, shape: torch.Size, like: tuple[int, ...]) -> None:
        super().__init__()
        self.slot = slot
        self.shape = tuple(shape[1:])
        self.is_as_long = len(like) == 2 and self.shape[0] == like[0]  # as the activations

    def forward(self, *_: object, **__: object) -> torch.Tensor:
        """Return zeros for the batch's number of items, and as many tokens where they count."""
        batch = self.slot.batch
        assert batch is not None
        shape = (batch.shape[1], *self.shape[1:]) if self.is_as_long else self.shape
        return batch.new_zeros(()).expand(len(batch), *shape)


class _Reached(BaseException):
    """Carries what a block gave out of the pass that it ends."""

    def __init__(self, gave: torch.Tensor) -> None:
        self.gave = gave


class Stop:
    """Passes that end after a block, in the threads that ask for one."""

    def __init__(self, block: nn.Module) -> None:
        self._asks = threading.local()
        block.register_forward_hook(self._ended)

    def __deepcopy__(self, _: object) -> Stop:
        return self  # in a copy of the network nobody asks for it

    def _ended(self, _: nn.Module, __: object, output: object) -> None:
        if getattr(self._asks, "now", False):
            first = output[0] if isinstance(output, (tuple, list)) else output
            assert isinstance(first, torch.Tensor), "as in the pass that was watched"
            raise _Reached(first)

    def __call__(self, run: Callable[[], object]) -> torch.Tensor:
        """Return what the block gives in a pass."""
        self._asks.now = True
        try:
            run()
        except _Reached as reached:
            return reached.gave
        finally:
            self._asks.now = False
        raise AssertionError("the pass did not come to the cut")
