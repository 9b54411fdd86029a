"""The official files -> our modules, key for key (spec: stage1.md section 8).

A module is built on the meta device, so that nothing is allocated twice; its tensors are then taken one by one from a memory-mapped file.
Loading is strict: keys that are missing, extra, misshapen or no floating-point numbers are one error that names them all.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...contract.errors import SetupError

M = TypeVar("M", bound=nn.Module)


class Weights(Mapping[str, Tensor]):
    """A file's tensors by name, mapped into memory: reading one reads its pages and no more.

    `.safetensors`, or a torch file (`.ckpt`, `.pt`) read with weights_only, its `state_dict` where it has one. Raises SetupError.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise SetupError(f"The weights {self.path} aren't there.", "Check the folder, or fetch the weights again.")
        self._get, self._names = _open(self.path)

    def __getitem__(self, name: str) -> Tensor:
        return self._get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def find(folder: str | Path, stem: str) -> Weights:
    """The file `stem` of a folder in the official layout: our converted .safetensors if it is there, else the official .ckpt or .pt."""
    tried = [Path(folder) / f"{stem}{suffix}" for suffix in (".safetensors", ".ckpt", ".pt")]
    for path in tried:
        if path.is_file():
            return Weights(path)
    raise SetupError(
        f"{folder} has no {tried[0].name}, {tried[1].name} or {tried[2].name}.", "Check the folder, or fetch the weights again."
    )


def load(
    build: Callable[[], M],
    weights: Mapping[str, Tensor],
    prefix: str = "",
    *,
    dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
    device: torch.device | str = "cpu",
) -> M:
    """Build a module and fill it with the tensors of `weights` whose names start with `prefix`; other names are left alone.

    dtype: one for all, or one for each name (without the prefix); None keeps each tensor's own. A tensor that already has dtype and device stays
    mapped: no copy at all. Raises SetupError, naming the keys that don't fit, of every kind of misfit (the first dozen of each).
    """
    with torch.device("meta"):
        module = build()
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    found = {name[len(prefix) :] for name in weights if name.startswith(prefix)}
    state: dict[str, Tensor] = {}
    misshapen, whole = [], []
    for name in wanted.keys() & found:
        tensor = weights[prefix + name]
        if tensor.shape != wanted[name]:
            misshapen.append(f"{prefix}{name} {tuple(tensor.shape)} instead of {tuple(wanted[name])}")
        elif not tensor.is_floating_point():
            whole.append(f"{prefix}{name} {tensor.dtype}")
        else:
            state[name] = tensor
    problems = {
        "lacks": [prefix + name for name in wanted.keys() - found],
        "has unknown keys": [prefix + name for name in found - wanted.keys()],
        "has misshapen tensors": misshapen,
        "has tensors that aren't floating-point numbers": whole,
    }
    if any(problems.values()):
        raise SetupError(
            "The checkpoint " + "; it ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names) + ".",
            "It isn't the model that this version implements; fetch the official files again.",
        )
    for name in wanted:  # one after another, so that no second set of weights is ever held
        kind = dtype[name] if isinstance(dtype, Mapping) else dtype
        state[name] = state[name].to(device=device, dtype=kind).contiguous()
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def _listed(names: list[str]) -> str:
    return ", ".join(sorted(names)[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _open(path: Path) -> tuple[Callable[[str], Tensor], dict[str, None]]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            file = safe_open(str(path), framework="pt")
            return file.get_tensor, dict.fromkeys(file.keys())
        except (SafetensorError, OSError) as problem:
            raise SetupError(f"{path} can't be read: {problem}.", "Fetch it again.") from problem
    try:
        # The files of PyTorch before 1.6 aren't zip archives and can't be mapped.
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as problem:  # torch raises whatever the damaged part raises
        raise SetupError(f"{path} can't be read as weights: {problem}.", "Fetch it again; files that hold code are refused.") from problem
    state = data.get("state_dict", data) if isinstance(data, dict) else None
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise SetupError(f"{path} holds no tensors.", "Fetch it again.")
    return tensors.__getitem__, dict.fromkeys(tensors)
