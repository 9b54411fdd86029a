"""Results on disk: written aside, renamed, and described by a meta.json that says whether they are complete.

A `Place` is where one result lives: a folder of its own (`<out>/<name>/model.glb`) or, flat, files with a common beginning
(`<out>/<name>.model.glb`). Reading rule: a result counts only where its meta.json says `complete` and every file in it has the size and
sha256 that stand there. So whatever ends the process, and whenever, no reader takes a half for a whole:

    new folder       everything is written into a hidden folder beside it, synced, and renamed in one step
    existing place   meta.json first becomes `complete: false` (it still lists what is ours), then file by file is renamed over the old
                     one, then what is left of the old result is deleted, then meta.json is renamed into its place

A file that no meta.json of ours lists belongs to somebody else: it is never overwritten and never deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..contract.errors import OutputError
from ..contract.version import VERSION

if TYPE_CHECKING:
    from ..contract.request import ReconstructRequest
    from ..contract.scene import Scene

META = "meta.json"
SCHEMA = 1  # of meta.json
TEMPORARY = ".sam3d-"  # beginning of the hidden folders that results are written into


@dataclass(frozen=True)
class Place:
    """Where the result `name` lives in the folder `out`."""

    out: Path
    name: str
    flat: bool = False

    @property
    def folder(self) -> Path:
        return self.out if self.flat else self.out / self.name

    def path(self, file: str) -> Path:
        """A result file's path; `file` is as in Scene.files, e.g. `objects/plate.glb`. Raises OutputError for one that would lead elsewhere."""
        if not is_inside(file):
            raise OutputError(f"{file!r} is no name for a result's file.")
        parts = PurePosixPath(file).parts
        return self.out / ".".join((self.name, *parts)) if self.flat else self.folder.joinpath(*parts)

    @property
    def meta(self) -> Path:
        return self.path(META)


def is_inside(file: str) -> bool:
    """Whether this is the name of a file in a result's folder, or in a folder in it, on every system."""
    parts = PurePosixPath(file).parts
    return bool(parts) and not any(part in ("..", "/", "//") or "\\" in part or ":" in part for part in parts)


def read_meta(place: Place) -> dict[str, Any] | None:
    """The place's meta.json, if it is one of ours."""
    try:
        data = json.loads(place.meta.read_bytes())
    except (OSError, ValueError):
        return None
    ours = isinstance(data, dict) and isinstance(data.get("sam3d"), int) and isinstance(data.get("files"), dict)
    return data if ours else None


def complete_meta(place: Place) -> dict[str, Any] | None:
    """The meta.json of a complete result: all its files are there with the right size and hash. Else None."""
    meta = read_meta(place)
    return meta if meta and meta.get("complete") is True and files_are_there(place, meta["files"]) else None


def files_are_there(place: Place, files: Mapping[str, Any]) -> bool:
    """Whether every file has its recorded size and sha256."""
    try:
        for file, record in files.items():
            path = place.path(file)
            if path.stat().st_size != record["size"] or _sha256_of(path) != record["sha256"]:
                return False
    except (OSError, OutputError, KeyError, TypeError):
        return False
    return bool(files)


def write_scene(
    place: Place, scene: Scene, request: ReconstructRequest, *, key: str, source: Mapping[str, Any], since: float, owner: str = "one"
) -> tuple[dict[str, Any], str]:
    """Write a scene's files with a meta.json that says how they came about; returns that meta and `made` or `replaced`. Raises OutputError.

    key: the request's content key; a later run knows the result by it. source: see `source_of`. since: time.perf_counter() when the work began.
    """
    meta = {
        "name": place.name,
        "key": key,
        "parameters": request.parameters(),
        "source": source,
        **described(scene),
        "seconds": round(time.perf_counter() - since, 3),
    }
    replaced = read_meta(place) is not None
    meta["files"] = write_result(place, scene.files, meta, owner=owner)
    return meta, "replaced" if replaced else "made"


def write_result(place: Place, files: Mapping[str, Any], meta: Mapping[str, Any], *, owner: str = "one") -> dict[str, dict[str, Any]]:
    """Write a result and its meta.json; returns file -> {size, sha256}. Replaces an earlier result of ours. Raises OutputError.

    files: name -> bytes, uint8 array, or an iterator of such pieces. owner: part of the temporary folder's name, so that `remove_leftovers` knows whose it is.
    """
    try:
        place.out.mkdir(parents=True, exist_ok=True)
        with _aside(place.out, owner) as aside:
            records = {}
            for file, data in files.items():
                records[file] = _write(_beside(aside, file), data)
            done = {"sam3d": SCHEMA, "complete": True, **meta, "files": records}
            _write(aside / META, _json(done))
            if place.flat or place.folder.exists():
                _replace(place, aside, done)
            else:
                _sync_folder(aside)
                os.rename(aside, place.folder)
            _sync_folder(place.out)
        return records
    except OSError as problem:
        raise OutputError(f"{place.folder} can't be written: {problem.strerror or problem}.") from problem


def check_writable(out: Path) -> None:
    """Raises OutputError where results could not be written; makes the folder. Better before the work than after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _aside(out, "probe"):
            pass
    except (FileExistsError, NotADirectoryError) as problem:
        raise OutputError(f"The folder {out} can't be made: a file is in its place.", "Choose another folder.") from problem
    except OSError as problem:
        raise OutputError(f"The folder {out} can't be written: {problem.strerror or problem}.") from problem


def check_free(place: Place, files: Iterable[str]) -> None:
    """Raises OutputError where one of these files, or meta.json, is there and isn't ours. `write_result` looks again."""
    old = read_meta(place)
    owned = set(old["files"]) if old else set()
    for file in (*files, META):
        if file not in owned and not (file == META and old) and os.path.lexists(place.path(file)):
            raise OutputError(f"{place.path(file)} is there and was not made by this program.", "Move it away, or choose another name.")


def remove_leftovers(out: Path, owner: str, older_than: float = 0.0) -> None:
    """Delete what runs of this owner left behind when they were killed. older_than: seconds since the last change."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(out)):
            if entry.name.startswith(f"{TEMPORARY}{owner}-") and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime >= older_than:
                        shutil.rmtree(entry.path, ignore_errors=True)


def described(scene: Scene) -> dict[str, Any]:
    """What meta.json says of a scene: JSON values, no arrays."""
    from ..contract.record import pack

    return {
        "engine": scene.engine,
        "seed": scene.seed,
        "version": VERSION,
        "camera": None if scene.camera is None else pack(scene.camera)[0],
        "objects": [
            {
                "name": item.name,
                "pose": pack(item.pose)[0],
                "score": item.score,
                "vertices": 0 if item.mesh is None else len(item.mesh.vertices),
                "faces": 0 if item.mesh is None else len(item.mesh.faces),
                "texture": None if item.mesh is None or item.mesh.texture is None else list(item.mesh.texture.shape[1::-1]),
                "splats": 0 if item.splats is None else len(item.splats.positions),
                "info": pack(item.info)[0],
            }
            for item in scene.objects
        ],
        "in_effect": pack(scene.parameters.get("in_effect", {}))[0],  # what the engine made of quality and options
        "timings": {stage: round(seconds, 4) for stage, seconds in scene.timings.items()},
        "warnings": list(scene.warnings),
    }


def source_of(image: Path, masks: Iterable[Path], rule: str | None = None) -> dict[str, Any]:
    """What meta.json says of the files a result was made of: names without folders, and the picture's hash."""
    try:
        sha = _sha256_of(image)
    except OSError:
        sha = None  # it was there a moment ago
    return {"image": image.name, "sha256": sha, "masks": [mask.name for mask in masks], "rule": rule}


def _replace(place: Place, aside: Path, done: dict[str, Any]) -> None:
    """File by file over what is there; see the module's text for the order."""
    check_free(place, done["files"])
    old = read_meta(place)
    owned = set(old["files"]) if old else set()
    place.folder.mkdir(parents=True, exist_ok=True)
    claims: dict[str, Any] = {file: {} for file in owned | set(done["files"])}
    _write(aside / "claim.json", _json({**done, "complete": False, "files": claims}))
    os.replace(aside / "claim.json", place.meta)
    for file in done["files"]:
        target = place.path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(_beside(aside, file), target)
    for file in owned - set(done["files"]):
        with contextlib.suppress(FileNotFoundError, OutputError):
            place.path(file).unlink()
            if not place.flat:
                with contextlib.suppress(OSError):  # not empty: somebody else's file is in it
                    place.path(file).parent.rmdir()
    for folder in {place.path(file).parent for file in done["files"]}:
        _sync_folder(folder)
    os.replace(aside / META, place.meta)
    _sync_folder(place.folder)


def _beside(aside: Path, file: str) -> Path:
    return Place(aside.parent, aside.name).path(file)


@contextlib.contextmanager
def _aside(out: Path, owner: str) -> Iterator[Path]:
    """A new hidden folder in `out` (the same file system, so that renaming works), gone afterwards unless it was renamed."""
    folder = out / f"{TEMPORARY}{owner}-{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, data: Any) -> dict[str, Any]:
    """Bytes, or an iterator of pieces; returns their size and sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size, digest = 0, hashlib.sha256()
    with open(path, "xb") as file:
        for piece in data if isinstance(data, Iterator) else (data,):
            view = memoryview(piece)
            size += view.nbytes
            digest.update(view)
            file.write(view)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "backslashreplace")


def _sync_folder(folder: Path) -> None:
    """Make the names durable too; Windows has no such call."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
