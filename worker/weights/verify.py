"""Is what lies in the folder what it should be? Sizes and sha256 of every file, the settings, the keys and shapes of every network."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from ...contract.errors import Sam3dError, SetupError
from ...vendor.moge import checkpoint as moge_files
from ..sam3d import checkpoint
from . import config, files, layout, locate, records
from .fake import MOGE_VITS

Report = Callable[..., None]
NO_DIGEST = "nobody published a digest of it"


@dataclass(frozen=True)
class Found:
    """A file that is there, with what is published about it."""

    path: Path
    name: str
    published: layout.File


def verify(folder: Path, report: Report) -> bool:
    """Everything that can be checked. False where a file is damaged or lacks, or isn't what this version implements; each of it was reported."""
    good = True
    try:
        config.architecture_of(folder)
    except SetupError as problem:
        report("file", name=layout.PIPELINE, state="damaged", bytes=None, text=str(problem))
        good = False
    for name in layout.missing(folder):
        report("file", name=name, state="missing", bytes=None, text="")
        good = False
    fake = (folder / layout.FAKE_FILE).is_file()
    here, lock = list(_files(folder, fake)), threading.Lock()
    sums = {found.path: (0, found.path.stat().st_size) for found in here}

    def hashed(found: Found) -> str:
        def count(done: int) -> None:
            with lock:
                sums[found.path] = done, sums[found.path][1]
                done_, total = (sum(column) for column in zip(*sums.values()))
                report("bytes", name=found.name, what="hashing", done=done_, total=total)

        return files.hash_file(found.path, count)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for found, sha256 in zip(here, pool.map(hashed, here)):
            state, text = _judge(folder, found, sha256)
            report("file", name=found.name, state=state, bytes=found.path.stat().st_size, text=text)
            good &= state != "damaged"
    for name, check in _contents(folder):
        try:
            check()
        except Sam3dError as problem:
            report("file", name=name, state="damaged", bytes=None, text=str(problem))
            good = False
    return good


def _files(folder: Path, fake: bool) -> Iterator[Found]:
    """What is there: settings, official files and converted ones, MoGe."""
    for name in layout.SETTINGS:
        if (folder / name).is_file():
            yield Found(folder / name, name, layout.File(name, 0))
    for network in layout.NETWORKS:
        for suffix in layout.SUFFIXES:
            path = folder / f"{network.stem}{suffix}"
            if path.is_file():
                published = network.checkpoint if suffix == ".ckpt" and not fake else layout.File(path.name, 0)
                yield Found(path, path.name, published)
    moge = locate.find_moge(folder)
    for path in dict.fromkeys([*([moge] if moge else []), folder / layout.MOGE_FILE]):
        if path.is_file():
            inside = path.is_relative_to(folder)
            yield Found(path, path.relative_to(folder).as_posix() if inside else str(path), layout.File(path.name, 0))


def _judge(folder: Path, found: Found, sha256: str) -> tuple[str, str]:
    """State and a word about it."""
    size, published = found.path.stat().st_size, found.published
    if published.size is not None and size != published.size:
        return "damaged", f"{size} bytes instead of {published.size}: fetch it again"
    if published.sha256 is not None:
        return (
            ("verified", "as published")
            if sha256 == published.sha256
            else ("damaged", "its sha256 isn't the published one: fetch it again")
        )
    record = records.load(folder).get(found.name)
    if record is None:
        if found.path.is_relative_to(folder):
            records.save(folder, found.path, sha256, "first")
        return "not verified", NO_DIGEST + "; recorded now"
    if record.get("sha256") != sha256:
        again = "remove it and convert again" if record.get("source") == "converted" else "fetch it again"
        return "damaged", f"it isn't the file that was recorded: {again}"
    words = {"hub": "as the hub said", "converted": "as it was converted"}
    word = words.get(str(record.get("source")))
    return ("verified", word) if word else ("not verified", NO_DIGEST + "; unchanged since it came")


def _contents(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Keys and shapes of each network against what is implemented, without reading a value."""
    try:
        architecture = config.architecture_of(folder)
    except SetupError:
        return  # said before
    for name, part in architecture.parts().items():
        path = layout.network(part.stem).there(folder)
        if path is not None:
            yield (
                f"{path.name} ({name})",
                lambda part=part: checkpoint.load(  # type: ignore[misc]
                    part.build, checkpoint.find(folder, part.stem), part.prefix, device="meta"
                ),
            )
    moge = locate.find_moge(folder)
    if moge is not None:
        yield moge.name, lambda: _check_moge(moge)


def _check_moge(path: Path) -> None:
    settings, found = moge_files.read(path)
    vit = MOGE_VITS.get(str(settings.get("encoder")))
    moge_files.fill(settings, found, vit, device="meta", dtype=torch.float16)
