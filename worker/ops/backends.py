"""Which implementation of an operation runs: by device and by what is installed, or by name.

SAM3D_OPS=torch                 every operation as its plain twin
with force("triton"): ...       the same for a block of code; a backend that can't run is an error, never a silent fallback
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator

import torch

from ...contract.errors import SetupError

_forced: list[str] = [name] if (name := os.environ.get("SAM3D_OPS", "")) else []


@functools.cache
def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def choose(device: torch.device, *offered: str, by_name: tuple[str, ...] = ()) -> str:
    """The name of the backend for tensors on `device`, out of those that an operation offers; `torch` always runs. Those in `by_name` run only
    where they are forced.

    Raises SetupError where a backend was forced that can't run here. A forced name that the operation doesn't offer is ignored.
    """
    able = [name for name in offered if _able(name, device)]
    for name in reversed(_forced):
        if name == "torch":
            return "torch"
        if name in offered or name in by_name:
            if not _able(name, device):
                raise SetupError(f"The backend {name!r} was asked for, but can't run on {device}.", _missing(name))
            return name
    return able[0] if able else "torch"


@contextlib.contextmanager
def force(name: str) -> Iterator[None]:
    """Use this backend for every operation that offers it, inside the block."""
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def _able(name: str, device: torch.device) -> bool:
    if name == "triton":
        return device.type == "cuda" and has("triton")
    if name in ("gsplat", "nvdiffrast", "spconv", "xformers"):
        return device.type == "cuda" and has(name)
    if name == "varlen":  # PyTorch's own
        return device.type == "cuda"
    return name == "pytorch3d" and has(name)


def _missing(name: str) -> str:
    if name == "varlen":
        return "It needs a CUDA device."
    return f"Install the package {name}." if name == "pytorch3d" else f"It needs a CUDA device and the package {name}."
