"""CUDA streams, one for each use: the libraries keep a workspace, tens of megabytes, for every stream that they have ever seen.

A tensor that was made on one stream may be read on another only when the first one's work is done: `settle` waits for that.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

import torch


@functools.cache
def stream(device: torch.device, use: str, priority: int = 0) -> torch.cuda.Stream:
    """The stream of this process for `use` on a CUDA device; the same one every time. priority: -1 goes before 0."""
    return torch.cuda.Stream(device, priority=priority)


def aside(device: torch.device, use: str) -> AbstractContextManager[object]:
    """This thread's work inside the block goes to the stream of `use`, in front of what the default stream has waiting. Not CUDA: nothing changes."""
    return torch.cuda.stream(stream(device, use, -1)) if device.type == "cuda" else nullcontext()


def settle(device: torch.device) -> None:
    """Wait until what this thread's stream was given is done; other streams are not waited for."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
