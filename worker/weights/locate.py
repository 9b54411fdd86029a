"""Where weights are looked for. No torch, no network: a look at folders.

    1. a folder that the caller names                      he knows best; nothing else is looked at
    2. SAM3D_WEIGHTS                                       set for this machine or container; nothing else is looked at
    3. SAM3D_MODELS                                        ComfyUI's `models/sam3d` and those of extra_model_paths.yaml: the nodes pass them on
    4. <ComfyUI>/models/sam3d                              where the pack lies in <ComfyUI>/custom_nodes, for the command line
    5. <pack>/models/sam3d                                 where there is no ComfyUI; `fetch` puts them here then
    6. the hub's cache                                     what other programs have fetched already (HF_HUB_CACHE, HF_HOME, ...)

MoGe stands below the folder of the others, in `models/geometry_estimation` (SAM3D_MOGE: such folders, or the file itself), or in the hub's cache.
SAM3D_MODELS and SAM3D_MOGE are lists in the manner of PATH.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from ...contract.errors import SetupError
from . import files, layout, records

PACK = Path(__file__).resolve().parents[2]
INNER = ("", "checkpoints", "hf", "checkpoints/hf")  # a folder may be the official one, or what it was fetched or unpacked into
_NEEDS = ("torch", "safetensors", "yaml")


def ready() -> bool:
    """Whether the sam3d engine could serve a request here: its packages, all files of its model, MoGe. Opens no file."""
    if packages_missing():
        return False
    try:
        folder = find()
    except SetupError:
        return False
    return find_moge(folder) is not None


def packages_missing() -> list[str]:
    """What the sam3d engine imports and this environment hasn't."""
    return [name for name in _NEEDS if importlib.util.find_spec(name) is None]


def identity() -> tuple[str, str]:
    """The engine that `auto` is here, and a digest of the weights that sam3d would use; empty: there are none."""
    if not ready():
        return "draft", ""
    try:
        folder = find()
        return "sam3d", records.digest(folder, find_moge(folder))
    except (SetupError, OSError):  # sam3d itself says what is wrong with them
        return "sam3d", ""


def find(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder whose model is whole. Raises SetupError: what lacks, where it was looked for, what to type."""
    lacking: dict[Path, list[str]] = {}
    for base in places(folder):
        for path in _inner(base):
            lacks = layout.missing(path)
            if not lacks:
                return path
            if len(lacks) < len(layout.missing(path / "no such folder")):
                lacking[path] = lacks
    raise _nothing(places(folder), lacking)


def nearest(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder that `find` gives, else the one with most of the files, else the one that `fetch` would fill."""
    paths = [path for base in places(folder) for path in _inner(base)]
    best = min(paths, key=lambda path: len(layout.missing(path)))
    return best if (best / layout.PIPELINE).is_file() or any(item.there(best) for item in layout.NETWORKS) else target(folder)


def target(folder: str | os.PathLike[str] | None = None) -> Path:
    """Where `fetch` puts them: the first of the places above, the hub's cache apart, that exists or may be made."""
    named = _named(folder)
    if named is not None:
        return named
    return next((path for path in _models() if path.parent.is_dir()), PACK / "models" / "sam3d")


def places(folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """All of them, in their order; they need not exist."""
    named = _named(folder)
    return [named] if named is not None else [*_models(), PACK / "models" / "sam3d", *_snapshots(layout.REPOSITORY)]


def find_moge(folder: Path) -> Path | None:
    """MoGe's file for the model in `folder`, a converted one first."""
    return next(_moge_files(folder), None)


def no_moge(folder: Path) -> SetupError:
    looked = "\n".join(f"  {path}" for path in dict.fromkeys([folder / layout.MOGE, *_moge_folders(), hub_cache()]))
    return SetupError(
        f"The weights of MoGe, which makes the point map, aren't there. Looked in:\n{looked}",
        "Type: python sam3d.py weights fetch   (or give a point map with the request: docs/pointmaps.md)",
    )


def hub_cache() -> Path:
    """The folder in which programs of the hub share what they fetched, by the hub's own variables."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(name):
            return Path(value).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or Path(cache, "huggingface")).expanduser() / "hub"


def _named(folder: str | os.PathLike[str] | None) -> Path | None:
    chosen = folder or os.environ.get("SAM3D_WEIGHTS", "").strip()
    return Path(chosen).expanduser().absolute() if chosen else None


def _inner(base: Path) -> list[Path]:
    return [base / name for name in INNER]


def _listed(variable: str) -> list[Path]:
    return [Path(name).expanduser().absolute() for name in os.environ.get(variable, "").split(os.pathsep) if name.strip()]


def _comfyui_models() -> Path | None:
    """Of the ComfyUI whose custom_nodes the pack lies in."""
    models = PACK.parent.parent / "models"
    return models if PACK.parent.name == "custom_nodes" and models.is_dir() else None


def _models() -> list[Path]:
    near = _comfyui_models()
    return [*_listed("SAM3D_MODELS"), *([near / "sam3d"] if near else [])]


def _snapshots(repository: str) -> list[Path]:
    """Of a repository in the hub's cache: the pinned revision first, then the newest."""
    folder = hub_cache() / f"models--{repository.replace('/', '--')}" / "snapshots"
    found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True) if folder.is_dir() else []
    return sorted(found, key=lambda path: path.name != layout.REVISION)


def _moge_folders() -> list[Path]:
    near = _comfyui_models()
    return [*_listed("SAM3D_MOGE"), *([near / "geometry_estimation"] if near else [])]


def _moge_files(folder: Path) -> Iterator[Path]:
    for base in (folder, folder.parent):
        for name in (layout.MOGE, "moge-vitl"):
            yield from _existing(base / name)
    yield from _existing(folder)
    for path in _moge_folders():
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from _existing(path)
            named = [
                item for item in path.rglob("*") if "moge" in item.name.lower() and item.suffix in (".safetensors", ".pt") and _known(item)
            ]
            # Version 1 is what the model was trained with; version 2 will do.
            yield from sorted(named, key=lambda item: ("2" in item.name or "3" in item.name, item.suffix, item.name))
    for snapshot in _snapshots(layout.MOGE_REPOSITORY):
        yield from _existing(snapshot)


def _known(path: Path) -> bool:
    """Not a version 2 without the configuration that its network is built from, as ComfyUI's own may be: then `fetch` brings version 1."""
    if path.suffix != ".safetensors":
        return True
    try:
        head = files.header(path)
    except (SetupError, OSError):
        return True  # whoever reads it says what is wrong
    return "model_config" in (head.get("__metadata__") or {}) or not any(name.startswith("encoder.") for name in head)


def _existing(folder: Path) -> Iterator[Path]:
    for suffix in (".safetensors", ".pt"):
        if (path := folder / f"model{suffix}").is_file():
            yield path


def _nothing(looked: list[Path], lacking: dict[Path, list[str]]) -> SetupError:
    if lacking:
        path, lacks = min(lacking.items(), key=lambda item: len(item[1]))
        what = f"The weights in {path} aren't whole: {', '.join(lacks)} {'is' if len(lacks) == 1 else 'are'} missing."
    else:
        what = "The weights of SAM 3D Objects aren't there. Looked in:\n" + "\n".join(f"  {path}" for path in dict.fromkeys(looked))
    return SetupError(
        what,
        "Type: python sam3d.py weights fetch   (they need a free account and Meta's consent; it explains)\n"
        "or:   python sam3d.py weights status  (where it looks, what is there)\n"
        "or name their folder in SAM3D_WEIGHTS; the engine `draft` needs none.",
    )
