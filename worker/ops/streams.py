"""CUDA streams, one for each use: the libraries keep a workspace, tens of megabytes, for every stream that they have ever seen."""

from __future__ import annotations

import functools

import torch


@functools.cache
def stream(device: torch.device, use: str) -> torch.cuda.Stream:
    """The stream of this process for `use` on a CUDA device; the same one every time."""
    return torch.cuda.Stream(device)
