"""To a device and back, so that a GPU computes while the next batch is copied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Staged:
    """Inputs on the device, or on their way."""

    tensors: dict[str, Any]
    event: Any = None  # of the copy, on a GPU

    def wait(self) -> None:
        """Let the computing stream wait for the copy; the host does not."""
        if self.event is None:
            return
        stream = torch.cuda.current_stream(self.event.device)
        stream.wait_event(self.event)
        for one in self.tensors.values():
            if isinstance(one, torch.Tensor):
                one.record_stream(stream)


def upload(tensors: dict[str, Any], device: str) -> Staged:
    """Copy to the device; to a GPU from pinned memory, on a stream beside the computing one."""
    if device == "cpu":
        return Staged(tensors)

    def copy(value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        if device.startswith("cuda"):
            value = value.pin_memory()
        return value.to(device, non_blocking=True)

    if not device.startswith("cuda"):
        return Staged({name: copy(one) for name, one in tensors.items()})
    with torch.cuda.stream(_copy_stream(device)):
        staged = {name: copy(one) for name, one in tensors.items()}
        return Staged(staged, _copy_stream(device).record_event())


@cache
def _copy_stream(device: str) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def download(result: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Start the copy to the host; returns the tensor there and, on a GPU, its event."""
    if result.device.type != "cuda":
        return result.cpu(), None
    host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
    host.copy_(result, non_blocking=True)
    return host, torch.cuda.current_stream(result.device).record_event()
