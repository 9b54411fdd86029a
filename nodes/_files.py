"""Files of the nodes: names from widgets are contained in the host's folders, results are numbered as core numbers them.

A name that comes from a widget may come from anybody who reaches the server. So it is resolved with `realpath`, and what doesn't lie inside
the folder - symbolic links resolved on both sides - is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..contract.errors import OptionError, OutputError, PairingError
from ..contract.names import safe_filename
from ..contract.pairing import IMAGE_SUFFIXES, natural_key
from . import _host

PICTURES = tuple(sorted(IMAGE_SUFFIXES))
MOST_LISTED = 2000  # entries of a drop-down list; a longer one helps nobody
_ANNOTATED = re.compile(r"(.*) \[(input|output|temp)\]", re.DOTALL)
_FOLDERS = {"input": _host.input_dir, "output": _host.output_dir, "temp": _host.temp_dir}


def contained(name: str, base: Path) -> Path:
    """`name` below `base`, both resolved. Raises OptionError for anything outside: .., absolute names, links that lead away."""
    root = os.path.realpath(base)
    try:
        real = os.path.realpath(os.path.join(root, name))
        inside = os.path.commonpath([root, real]) == root
    except ValueError:  # another drive, a null byte
        inside = False
    if not inside:
        raise OptionError(f"{name!r} leads out of the folder {base.name!r}.", "Use a name inside that folder.")
    return Path(real)


def picked(name: str) -> Path:
    """The file that a widget names: relative to the input folder, or with core's ending ` [output]`, ` [temp]`, ` [input]`."""
    found = _ANNOTATED.fullmatch(name)
    bare, kind = (found[1], found[2]) if found else (name, "input")
    path = contained(bare, _FOLDERS[kind]())
    if not path.is_file():
        raise OptionError(f"There is no file {bare!r} in the {kind} folder.", "Upload it, or choose another one.")
    return path


def picked_many(lines: str) -> list[Path]:
    """The files that a text of names and patterns means, one a line, in this order; a pattern's files in natural order."""
    out: list[Path] = []
    for line in (part.strip() for part in lines.splitlines()):
        if not line:
            continue
        if not any(sign in line for sign in "*?[") or contained(line, _host.input_dir()).is_file():
            out.append(picked(line))
            continue
        folder, _, pattern = line.rpartition("/")
        base = contained(folder, _host.input_dir())
        try:
            names = [p.name for p in base.glob(pattern) if p.suffix.lower() in PICTURES and p.is_file()]
        except (OSError, ValueError, NotImplementedError):
            names = []
        if not names:
            raise PairingError(f"No picture in the input folder matches {line!r}.", "Correct the pattern, or name the files one by one.")
        out += [contained(name, base) for name in sorted(names, key=natural_key)]
    return out


def pictures() -> list[str]:
    """The input folder's pictures and those up to two folders down, as a drop-down list shows them."""
    return [name for name, is_folder in _listed(depth=2) if not is_folder and name.lower().endswith(PICTURES)]


def folders() -> list[str]:
    """The folders below the input folder, three levels deep."""
    return [name for name, is_folder in _listed(depth=2) if is_folder]


def _listed(depth: int) -> list[tuple[str, bool]]:
    def walk(folder: Path, prefix: str, left: int) -> Iterator[tuple[str, bool]]:
        try:
            entries = sorted(os.scandir(folder), key=lambda e: natural_key(e.name))
        except OSError:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            yield prefix + entry.name, entry.is_dir()
            if entry.is_dir() and left:
                yield from walk(Path(entry.path), f"{prefix}{entry.name}/", left - 1)

    out: list[tuple[str, bool]] = []
    for item in walk(_host.input_dir(), "", depth):
        out.append(item)
        if len(out) >= MOST_LISTED:
            break
    return out


def fingerprint(paths: list[Path]) -> str:
    """Changes when one of the files does (name, size or time of change)."""
    digest = hashlib.sha256()
    for path in paths:
        state = path.stat()
        digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()


# -- results


def save(prefix: str, base: Path, files: Mapping[str, bytes], folder: Mapping[str, bytes] | None = None) -> list[Path]:
    """Write `files` (ending -> bytes) as `<base>/<prefix>_00001_<ending>`, the number being the first that is free for all of them;
    `folder` (relative name -> bytes) goes into a folder `<prefix>_00001_`. Returns the paths in this order.

    Nothing is ever overwritten, by two processes at once neither; nothing half-written is visible. Raises OptionError for a prefix that
    leads out of `base`, OutputError where the disk refuses.
    """
    target, name = _target(prefix, base)
    try:
        target.mkdir(parents=True, exist_ok=True)
        counter = _first_free(target, name)
        while True:
            try:
                return _write(target, f"{name}_{counter:05}_", files, folder or {})
            except FileExistsError:  # somebody else was faster
                counter += 1
    except OSError as problem:
        raise OutputError(f"The result can't be written into {target}: {problem.strerror or problem}.") from problem


def check_prefix(prefix: str, base: Path) -> None:
    """Raises OptionError for a prefix that `save` would refuse."""
    _target(prefix, base)


def _target(prefix: str, base: Path) -> tuple[Path, str]:
    wanted = _host.expand_prefix(prefix.strip()) or "sam3d"
    contained(wanted, base)  # before anything is made harmless: a prefix that tries to leave is refused, not bent
    parts = [part for part in re.split(r"[\\/]+", os.path.normpath(wanted)) if part not in ("", ".")]
    if not parts or ".." in parts:
        raise OptionError(f"{prefix!r} is no file name.", "Use a prefix such as 3d/sam3d.")
    *folders, name = [safe_filename(part) for part in parts]
    return contained(os.path.join(*folders, ""), base) if folders else Path(os.path.realpath(base)), name


def _first_free(target: Path, name: str) -> int:
    taken = re.compile(re.escape(name) + r"_(\d+)_", re.IGNORECASE)
    return 1 + max((int(found[1]) for entry in os.listdir(target) if (found := taken.match(entry))), default=0)


def _write(target: Path, stem: str, files: Mapping[str, bytes], folder: Mapping[str, bytes]) -> list[Path]:
    made: list[Path] = []
    own_folder = False
    try:
        for ending, data in files.items():
            path = target / f"{stem}{ending}"
            _create(path, data)
            made.append(path)
        if folder:
            (target / stem).mkdir()  # exclusive as well
            own_folder = True
            for name, data in folder.items():
                path = contained(name, target / stem)
                path.parent.mkdir(parents=True, exist_ok=True)
                _create(path, data)
                made.append(path)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        if own_folder:
            shutil.rmtree(target / stem, ignore_errors=True)
        raise
    return made


def _create(path: Path, data: bytes) -> None:
    """The whole file or none. Raises FileExistsError rather than replace one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        aside.write_bytes(data)
        try:
            os.link(aside, path)  # atomic, and refuses an existing name
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def ui_entry(path: Path, base: Path, kind: str) -> dict[str, str]:
    """How the host wants to hear of a file: its name, its folder below the output (or temp) folder, and which of the two."""
    relative = path.relative_to(os.path.realpath(base))
    return {"filename": relative.name, "subfolder": relative.parent.as_posix().removeprefix("."), "type": kind}


def relative(path: Path, base: Path) -> str:
    """A path as core's Preview3D wants it: relative to the output folder, with forward slashes."""
    return path.relative_to(os.path.realpath(base)).as_posix()
