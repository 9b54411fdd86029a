"""Finding golden files, and comparing an answer with what they hold. Their format: the README.md beside them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

WHERE = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).resolve().parents[2] / ".." / "shared" / "golden")


def files(suffix: str = ".safetensors") -> list[Path]:
    """All golden files below WHERE, which may be one sub-folder; empty on a user's machine."""
    return sorted(path.resolve() for path in WHERE.rglob(f"*{suffix}"))


@dataclass
class Golden:
    kind: str
    config: dict[str, Any]
    tolerance: float
    inputs: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    wanted: dict[str, torch.Tensor]


def read(path: Path) -> Golden:
    with safe_open(str(path), "pt") as file:
        meta = file.metadata()
        parts: dict[str, dict[str, torch.Tensor]] = {"in": {}, "sd": {}, "out": {}}
        for name in file.keys():  # noqa: SIM118 - no mapping
            prefix, _, rest = name.partition(".")
            parts[prefix][rest] = file.get_tensor(name)
    return Golden(
        meta["kind"], json.loads(meta.get("config", "{}")), float(meta.get("tolerance_abs", "nan")), parts["in"], parts["sd"], parts["out"]
    )


def kind_of(path: Path) -> str:
    """The file's `kind`, or "" where it has none, which no part replays."""
    if path.suffix == ".json":
        document = json.loads(path.read_text(encoding="utf-8"))
        return str(document.get("kind", "")) if isinstance(document, dict) else ""
    with safe_open(str(path), "pt") as file:
        return str((file.metadata() or {}).get("kind", ""))


def compare(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> list[str]:
    """What doesn't fit, in words; empty where all does. Whole numbers must be equal, NaN must stand at the same places."""
    wrong = []
    for name, want in wanted.items():
        have = got.get(name)
        if have is None:
            wrong.append(f"{name} is missing")
        elif have.shape != want.shape:
            wrong.append(f"{name} has shape {tuple(have.shape)}, not {tuple(want.shape)}")
        elif not want.dtype.is_floating_point:
            if not torch.equal(have.long(), want.long()):
                wrong.append(f"{name}: {int((have.long() != want.long()).sum())} of {want.numel()} whole numbers differ")
        elif not torch.allclose(have.double(), want.double(), rtol=1e-4, atol=tolerance, equal_nan=True):
            worst = (have.double() - want.double()).abs().nan_to_num(nan=float("inf")).max()
            wrong.append(
                f"{name} differs by up to {worst:.3g} (allowed {tolerance:g}), NaN {int(have.isnan().sum())}/{int(want.isnan().sum())}"
            )
    return wrong


def near(got: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-5, rtol: float = 1.3e-6) -> None:
    """Assert that two float tensors agree. (torch.testing.assert_close imports a third of PyTorch first: 2 seconds.)"""
    assert got.shape == wanted.shape and got.dtype == wanted.dtype, (got.shape, wanted.shape, got.dtype, wanted.dtype)
    assert torch.allclose(got, wanted, atol=atol, rtol=rtol), f"differs by up to {float((got - wanted).abs().max()):.3g}"
