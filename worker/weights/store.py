"""A folder of weights, opened: networks by name, ready to run (docs/weights.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...contract.errors import SetupError
from ...vendor.moge import checkpoint as moge_files
from ..sam3d import checkpoint
from ..sam3d.architecture import Architecture, Part
from . import config, layout, locate, records
from .fake import MOGE_VITS, WARNING
from .status import stale


@dataclass(frozen=True)
class Store:
    """Weights on the disk. digest: of what they are, for the keys of results; the same after a restart. warnings: for every result made from them.

    origin: for a result's provenance. dtype: in which the networks compute, wherever they are kept in between.
    """

    folder: Path
    architecture: Architecture
    dtype: torch.dtype
    digest: str
    fake: bool
    warnings: tuple[str, ...]
    origin: str
    moge: Path | None = None

    def load(self, name: str, device: torch.device) -> nn.Module:
        """The network `name` of Architecture.parts, or `moge`, on `device`. Raises SetupError, naming file and keys.

        Tensors come one by one from a mapped file, each straight in the precision that it runs in: those that have it already stay mapped on a CPU.
        """
        if name == layout.MOGE:
            return self._load_moge(device)
        part = self.architecture.parts()[name]
        network = layout.network(part.stem)
        if network.there(self.folder) is None:
            raise SetupError(
                f"{self.folder} lacks {network.checkpoint.name}, which this request needs.", "Type: python sam3d.py weights fetch"
            )
        weights = checkpoint.find(self.folder, part.stem)
        # On Apple's GPUs this one overflows in half precision (stage2.md section 11).
        dtype = torch.float32 if device.type == "mps" and name == "mesh" else self.dtype
        try:
            return checkpoint.load(part.build, weights, part.prefix, dtype=dtypes(part, dtype), device=device)
        except SetupError as problem:
            raise SetupError(f"{weights.path}: {problem.message}", problem.hint) from problem

    def _load_moge(self, device: torch.device) -> nn.Module:
        if self.moge is None:
            raise locate.no_moge(self.folder)
        settings, found = moge_files.read(self.moge)
        return moge_files.fill(settings, found, MOGE_VITS.get(str(settings.get("encoder"))), device=device, dtype=self.dtype)


def open_store(folder: str | os.PathLike[str] | None = None, dtype: torch.dtype | None = None) -> Store:
    """The weights of `folder`, or those that are found (locate.py). Raises SetupError: nothing there, not whole, or settings that aren't implemented.

    dtype None: float16 where the machine has a GPU (CUDA, Apple's), else float32. Stage 2's networks keep their ends in float32 (stage2.md section 11).
    """
    where = locate.find(folder)
    architecture = config.architecture_of(where)
    mark = config.fake_mark(config.read(where / layout.PIPELINE))
    fake = bool(mark) or (where / layout.FAKE_FILE).is_file()
    moge = locate.find_moge(where)
    origin = f"random weights, {mark.get('size', 'full')}, seed {mark.get('seed', 0)}" if fake else layout.REPOSITORY
    warnings = [WARNING] if fake else []
    warnings += [f"{path.name} was made of another {source.name}: type python sam3d.py weights convert." for path, source in stale(where)]
    return Store(where, architecture, dtype or working_dtype(), records.digest(where, moge), fake, tuple(warnings), origin, moge)


def working_dtype() -> torch.dtype:
    return torch.float16 if torch.cuda.is_available() or torch.backends.mps.is_available() else torch.float32


def dtypes(part: Part, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Each tensor's dtype, by name, when the part computes in `dtype`."""
    with torch.device("meta"):
        module = part.to_precision(part.build(), dtype)
    return {name: tensor.dtype for name, tensor in module.state_dict().items()}
