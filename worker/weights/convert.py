"""`.ckpt` -> `.safetensors` beside it, once: float16 where the networks compute in it, mapped into memory when it is used, a third of the size.

Of ss_generator.ckpt only what the networks read is taken: it also holds the occupancy decoder a second time. The official file stays where it is.
A file that is there and was made of the same source isn't made again, so an interrupted run goes on with the next one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...contract.errors import SetupError
from ...vendor.moge import checkpoint as moge_files
from ..sam3d.architecture import Architecture
from ..sam3d.checkpoint import Weights
from . import config, files, layout, records, tensors
from .store import dtypes

DUPLICATE = "_base_models.decoder."  # in ss_generator.ckpt: the occupancy decoder, which has a file of its own
SAMPLED = 24  # tensors whose values are compared after writing
Report = Callable[..., None]


def convert(folder: Path, report: Report, *, again: bool = False) -> list[str]:
    """Convert what can be converted in `folder`; the names of the files that were made. report: as in __main__. Raises SetupError, OutputError."""
    architecture = config.architecture_of(folder)
    made = []
    for network in layout.NETWORKS:
        source = next((path for suffix in (".ckpt", ".pt") if (path := folder / f"{network.stem}{suffix}").is_file()), None)
        if source is not None and _due(source, source.with_suffix(".safetensors"), report, again):
            plan = plan_of(architecture, network.stem)
            _convert(source, source.with_suffix(".safetensors"), dict(Weights(source)), plan, {}, report, strict=True)
            made.append(f"{network.stem}.safetensors")
    source = folder / layout.MOGE_FILE
    if source.is_file() and _due(source, source.with_suffix(".safetensors"), report, again):
        settings, found = moge_files.read(source)
        plan = {name: torch.float32 if name.endswith(("image_mean", "image_std")) else torch.float16 for name in found}
        _convert(source, source.with_suffix(".safetensors"), found, plan, {"model_config": json.dumps(settings)}, report)
        made.append("moge/model.safetensors")
    return made


def plan_of(architecture: Architecture, stem: str) -> dict[str, torch.dtype]:
    """Of a file: the keys that networks read, with the dtype that each is kept in."""
    return {
        part.prefix + name: dtype
        for part in architecture.parts().values()
        if part.stem == stem
        for name, dtype in dtypes(part, torch.float16).items()
    }


def _due(source: Path, target: Path, report: Report, again: bool) -> bool:
    if not again and target.is_file():
        try:
            same = files.metadata(target).get("source_fingerprint") == records.fingerprint(source)
        except SetupError:
            same = False  # cut short: it is made again
        if same:
            report("file", name=target.name, state="there", bytes=target.stat().st_size, text="converted already")
            return False
    return True


def _convert(
    source: Path,
    target: Path,
    found: Mapping[str, Tensor],
    plan: Mapping[str, torch.dtype],
    more: Mapping[str, str],
    report: Report,
    *,
    strict: bool = False,
) -> None:
    lacking, unknown = (
        sorted(plan.keys() - found.keys()),
        sorted(name for name in found.keys() - plan.keys() if not name.startswith(DUPLICATE)),
    )
    if strict and (lacking or unknown):
        told = [f"lacks {', '.join(lacking[:6])}"] * bool(lacking) + [f"has unknown keys: {', '.join(unknown[:6])}"] * bool(unknown)
        raise SetupError(
            f"{source} {'; it '.join(told)}.", "It isn't the model that this version implements; fetch the official files again."
        )
    items = [tensors.Item(name, tuple(found[name].shape), dtype, lambda name=name: found[name]) for name, dtype in plan.items()]  # type: ignore[misc]
    total, size = sum(item.size for item in items), source.stat().st_size
    files.check_space(target.parent, total)
    source_sha256 = files.hash_file(source, lambda done: report("bytes", name=source.name, what="reading", done=done, total=size))
    metadata = {
        "format": "pt",
        "source": source.name,
        "source_bytes": str(size),
        "source_sha256": source_sha256,
        "source_fingerprint": records.fingerprint(source),
        **more,
    }
    sha256 = tensors.write(
        target,
        items,
        metadata,
        lambda path: _check(path, found, plan),
        lambda done: report("bytes", name=target.name, what="writing", done=done, total=total),
    )
    folder = target.parent.parent if target.parent.name == layout.MOGE else target.parent
    records.save(folder, target, sha256, "converted")
    report("file", name=target.name, state="made", bytes=target.stat().st_size, text=f"from {source.name}")


def _check(path: Path, found: Mapping[str, Tensor], plan: Mapping[str, torch.dtype]) -> None:
    """What was written says the same: names, shapes, and the values of some tensors, others for each file."""
    header = files.header(path)
    if header.keys() - {"__metadata__"} != plan.keys():
        raise SetupError(f"{path} hasn't the names that it should have.", "Type the same command again.")
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        for name in random.Random(len(plan)).sample(sorted(plan), min(SAMPLED, len(plan))):
            if not torch.equal(file.get_tensor(name), found[name].to(plan[name])):
                raise SetupError(f"{path}: {name} isn't what was written.", "Check the disk, then type the same command again.")
