"""Which implementation of an operation runs: by device and by what is installed, or by name.

SAM3D_OPS=torch                 every operation as its plain twin
with force("triton"): ...       the same for a block of code; a backend that can't run is an error, never a silent fallback
available(device)               what can run here, for each operation
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator

import torch

from ...contract.errors import SetupError

# Operations (the modules beside this one) and the backends they know, besides the plain twin `torch`.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "cubes": ("triton",),
    "fused": ("triton",),
    "group_norm": ("triton",),
    "packed_attention": ("triton",),
    "rasterise": ("triton", "pytorch3d", "nvdiffrast"),
    "sparse_conv": ("triton", "spconv"),
    "sparse_fused": ("triton",),
    "splatting": ("triton", "gsplat"),
    "window_attention": ("triton", "varlen", "xformers"),
}
_NAMES = {"torch"}.union(*OPERATIONS.values())
_ANY_DEVICE = ("pytorch3d",)
_PYTORCHS_OWN = ("varlen",)

_forced: list[str] = [name] if (name := os.environ.get("SAM3D_OPS", "").strip()) else []


@functools.cache
def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def choose(device: torch.device, *offered: str, by_name: tuple[str, ...] = ()) -> str:
    """The name of the backend for tensors on `device`, out of those that an operation offers; `torch` always runs. Those in `by_name` run only
    where they are forced.

    Raises SetupError where a backend was forced that can't run here, or that nothing offers. A forced name that only other operations offer is ignored.
    """
    for name in reversed(_forced):
        if name == "torch":
            return "torch"
        _check(name, device if name in offered or name in by_name else None)
        if name in offered or name in by_name:
            return name
    return next((name for name in offered if _able(name, device)), "torch")


def check(device: torch.device) -> None:
    """To be asked before any work: raises SetupError where a backend is forced (SAM3D_OPS) that isn't there or can't run on `device`."""
    for name in _forced:
        _check(name, device)


def _check(name: str, device: torch.device | None) -> None:
    """device: where it is to run; None: nowhere."""
    if name not in _NAMES:
        raise SetupError(f"There is no backend {name!r}.", f"Use one of {', '.join(sorted(_NAMES))} in SAM3D_OPS, or leave it unset.")
    if name != "torch" and device is not None and not _able(name, device):
        raise SetupError(f"The backend {name!r} was asked for, but can't run on {device}.", _missing(name))


def available(device: torch.device) -> dict[str, list[str]]:
    """For each operation the backends that can run on `device`, those preferred first; some run only by name. The plain twin is the last."""
    return {operation: [*(name for name in names if _able(name, device)), "torch"] for operation, names in OPERATIONS.items()}


@contextlib.contextmanager
def force(name: str) -> Iterator[None]:
    """Use this backend for every operation that offers it, inside the block."""
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def _able(name: str, device: torch.device) -> bool:
    return (device.type == "cuda" or name in _ANY_DEVICE) and (name in _PYTORCHS_OWN or has(name))


def _missing(name: str) -> str:
    needs = [*(["a CUDA device"] if name not in _ANY_DEVICE else []), *([f"the package {name}"] if name not in _PYTORCHS_OWN else [])]
    return f"It needs {' and '.join(needs)}."
