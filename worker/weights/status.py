"""What is there of the weights, by a look at folders and headers. No torch, nothing hashed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import files, layout, locate, records

Report = Callable[..., None]


def status(folder: Path, report: Report) -> bool:
    """One event for each file that should be there; True where an engine could run. Opens headers, hashes nothing."""
    old = {path for path, _ in stale(folder)}
    for name in layout.SETTINGS:
        _tell(report, folder / name, name)
    for network in layout.NETWORKS:
        path = network.there(folder)
        _tell(report, path or folder / network.checkpoint.name, network.checkpoint.name, old, optional=network.optional)
    moge = locate.find_moge(folder)
    _tell(report, moge or folder / layout.MOGE_FILE, layout.MOGE_FILE, old)
    return not layout.missing(folder) and moge is not None


def _tell(report: Report, path: Path, name: str, old: set[Path] | None = None, *, optional: bool = False) -> None:
    if not path.is_file():
        report(
            "file",
            name=name,
            state="optional" if optional else "missing",
            bytes=None,
            text="only for four splats a voxel" if optional else "",
        )
        return
    text = "" if path.name == Path(name).name else f"as {path.name}"
    if path in (old or ()):
        report(
            "file", name=name, state="stale", bytes=path.stat().st_size, text=f"{text}, made of another file: convert again".lstrip(", ")
        )
        return
    report("file", name=name, state="there", bytes=path.stat().st_size, text=text)


def stale(folder: Path) -> list[tuple[Path, Path]]:
    """Converted files beside an official one that they weren't made of, each with that one."""
    pairs = [(folder / f"{stem}.safetensors", folder / f"{stem}.ckpt") for stem in layout.STEMS]
    pairs.append((folder / layout.MOGE / "model.safetensors", folder / layout.MOGE_FILE))
    both = [(path, source) for path, source in pairs if path.is_file() and source.is_file()]
    return [(path, source) for path, source in both if files.metadata(path).get("source_fingerprint") != records.fingerprint(source)]
