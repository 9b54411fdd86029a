"""Which mask belongs to which picture of a folder: the rules of the batch and of SAM3D Load Folder (docs/batch.md).

In this order, the first that matches; `pair` forces one:

    table    pairs.csv or pairs.jsonl names pictures, masks, names and parameters
    folder   masks/<stem>.* in a parallel folder: x.png + masks/x.png, or images/x.png + masks/x.png
    suffix   <stem>_mask.*, <stem>-mask.* or <stem>.mask.* beside it
    layout   <name>/image.png + <name>/0.png, 1.png, ... (as in the original's demo): one job for each mask
    alpha    the picture has an alpha channel
    auto     nothing of these: somebody else finds the mask (only when forced)

A file that is a mask or the point map (<stem>_pointmap.*) of another picture is never a picture. Names are compared in Unicode NFC (a file name of macOS may be NFD),
extensions and the word `mask` without regard to case. Nothing is decoded; of a picture without a mask, the header is read.
"""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .errors import ImageError, PairingError, Sam3dError

RULES = ("table", "folder", "suffix", "layout", "alpha", "auto")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
TABLES = ("pairs.csv", "pairs.jsonl")

POINTMAP_SUFFIXES = frozenset({".npy", ".npz", ".png", ".tif", ".tiff"})

_POINTMAP_NAME = re.compile(r"(.+)[_.-]pointmap", re.IGNORECASE | re.DOTALL)
_MASK_NAME = re.compile(r"(.+)[_.-]mask", re.IGNORECASE | re.DOTALL)
_DIGITS = re.compile(r"(\d+)")
_NO_MASK_HINT = "Put a mask beside it (<name>_mask.png) or into masks/, give a picture with transparency, or let a mask be found (batch: --auto-mask border)."


@dataclass(frozen=True)
class Pair:
    """One job of a folder. masks: files, one object each; none where the rule is alpha, auto or none.

    name: what the result is called, NFC, not yet a safe or unique file name. rule: one of RULES, or `none` together with an error.
    params: what a table says about this row (text from a CSV, JSON values else). pointmap: the file beside the picture that holds its points
    (docs/pointmaps.md), or None. error: why this job can't be done, or None.
    """

    name: str
    image: Path
    masks: tuple[Path, ...] = ()
    rule: str = "none"
    params: dict[str, Any] = field(default_factory=dict)
    pointmap: Path | None = None
    error: Sam3dError | None = None


def find_pairs(
    source: str | os.PathLike[str],
    *,
    pair: str | None = None,
    recursive: bool = False,
    only: Iterable[str] = (),
    exclude: Iterable[str] = (),
    skip: Path | None = None,
) -> list[Pair]:
    """The jobs of a folder (or of a table, given by its path), in natural order. A job that can't be paired carries its error.

    pair: force this rule. recursive: look into sub-folders too. only, exclude: globs on file name, stem, relative path or job name.
    skip: a folder that is never looked into (the batch's output). Raises PairingError where the whole source can't be used.
    """
    folder = Path(source)
    if pair is not None and pair not in RULES:
        raise PairingError(f"{pair!r} is no pairing rule.", f"Choose among: {', '.join(RULES)}.")
    table = _table_of(folder, pair)
    if table is not None:
        finder = _Finder(table.parent, pair=None if pair == "table" else pair, recursive=False, skip=None)
        found = [job for row in _rows(table) for job in finder.of_row(row)]
    else:
        finder = _Finder(folder, pair=pair, recursive=recursive, skip=skip)
        found = finder.of_folder()
    return select(found, table.parent if table is not None else folder, only, exclude)


def select(pairs: Iterable[Pair], base: Path, only: Iterable[str] = (), exclude: Iterable[str] = ()) -> list[Pair]:
    """Those that a glob of `only` fits (all, if there is none) and no glob of `exclude`; `base` is what paths are relative to."""
    wanted, unwanted = [_fold(g) for g in only], [_fold(g) for g in exclude]
    return [p for p in pairs if (not wanted or _matches(p, base, wanted)) and not _matches(p, base, unwanted)]


def natural_key(text: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key with x2 before x10: runs of digits count as numbers, the rest as NFC text without regard to case."""
    parts = _DIGITS.split(unicodedata.normalize("NFC", text).casefold())
    return tuple((not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part)


def nfc_stem(path: Path) -> str:
    """A file's name without its last extension, in NFC."""
    return unicodedata.normalize("NFC", path.stem)


def pointmap_stem(path: Path) -> str | None:
    """The stem of the picture that a point map of this name belongs to, in NFC; None for any other file."""
    found = _POINTMAP_NAME.fullmatch(nfc_stem(path)) if path.suffix.lower() in POINTMAP_SUFFIXES else None
    return found[1] if found else None


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _matches(pair: Pair, base: Path, globs: Sequence[str]) -> bool:
    try:
        relative = pair.image.relative_to(base).as_posix()
    except ValueError:  # a table may name files elsewhere
        relative = pair.image.as_posix()
    texts = {_fold(t) for t in (pair.image.name, pair.image.stem, relative, pair.name)}
    return any(fnmatchcase(text, glob) for glob in globs for text in texts)


# --- folders ---------------------------------------------------------------------------------------------------------


class _Index:
    """What a picture asks its folder for, so that each of 100,000 pictures looks once and not through all others. Lists are in natural order."""

    def __init__(self, files: list[Path], folders: list[Path], pointmaps: list[Path]) -> None:
        self.of_stem: dict[str, list[Path]] = {}  # the pictures of this stem
        self.masks_of: dict[str, list[Path]] = {}  # the stem's `_mask` files
        self.pointmaps_of: dict[str, list[Path]] = {}
        for file in files:
            stem = nfc_stem(file)
            self.of_stem.setdefault(stem, []).append(file)
            if found := _MASK_NAME.fullmatch(stem):
                self.masks_of.setdefault(found[1], []).append(file)
        for file in pointmaps:
            self.pointmaps_of.setdefault(pointmap_stem(file) or "", []).append(file)
        self.masks_folders = [folder for folder in folders if folder.name.casefold() == "masks"]


class _Finder:
    """Walks one folder. Listings are kept, so that a folder is read once however many pictures look into it."""

    def __init__(self, root: Path, *, pair: str | None, recursive: bool, skip: Path | None) -> None:
        self.root = root
        self.rules = RULES[1:-1] if pair in (None, "table") else (pair,)
        self.forced = pair not in (None, "table")
        self.recursive = recursive
        self.skip = skip.resolve() if skip is not None else None
        self._listings: dict[Path, tuple[list[Path], list[Path]]] = {}
        self._pointmaps: dict[Path, list[Path]] = {}
        self._indexes: dict[Path, _Index] = {}
        self._taken: dict[Path, list[Path]] = {}

    def of_folder(self) -> list[Pair]:
        return [self._mapped(job) for folder in self._folders() for image in self._pictures(folder) for job in self._jobs(image)]

    def of_row(self, row: Pair) -> list[Pair]:
        """A table's row as it is where it names masks (or is wrong), else by the other rules."""
        if row.error is not None or (row.masks and not self.forced):
            return [self._mapped(row)]
        own = row.name != nfc_stem(row.image)  # the row gave a name
        jobs = self._jobs(row.image)
        names = [row.name if len(jobs) == 1 else f"{row.name}_{nfc_stem(j.masks[0])}" for j in jobs] if own else [j.name for j in jobs]
        return [self._mapped(replace(job, name=name, params=row.params)) for job, name in zip(jobs, names)]

    def _mapped(self, job: Pair) -> Pair:
        """With the point map that lies beside the picture, unless a table names one."""
        if job.error is not None or "pointmap" in job.params:
            return job
        found = self._index(job.image.parent).pointmaps_of.get(nfc_stem(job.image), [])
        if len(found) > 1:
            names = " and ".join(f.name for f in found)
            return replace(job, error=PairingError(f"{job.image.name} has {len(found)} point maps: {names}.", "Keep one."))
        return replace(job, pointmap=found[0]) if found else job

    def _list(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """(pictures, folders) in it, in natural order, without hidden ones; empty where it can't be read."""
        if folder not in self._listings:
            try:
                entries = sorted(
                    (e for e in os.scandir(folder) if not e.name.startswith(".")),
                    key=lambda e: [natural_key(t) for t in os.path.splitext(e.name)],
                )
            except OSError:
                entries = []
            self._pointmaps[folder] = [path for e in entries if pointmap_stem(path := folder / e.name) is not None and e.is_file()]
            files = [folder / e.name for e in entries if os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES and e.is_file()]
            self._listings[folder] = files, [folder / e.name for e in entries if e.is_dir()]
        return self._listings[folder]

    def _index(self, folder: Path) -> _Index:
        if folder not in self._indexes:
            files, folders = self._list(folder)
            self._indexes[folder] = _Index(files, folders, self._pointmaps[folder])
        return self._indexes[folder]

    def _folders(self) -> Iterator[Path]:
        """Where pictures may be. Without `recursive`: the folder itself, its images/, and sub-folders of the original's layout."""
        yield self.root
        yield from self._below(self.root)

    def _below(self, folder: Path) -> Iterator[Path]:
        for child in self._list(folder)[1]:
            if child.name.casefold() == "masks" or (self.skip is not None and child.resolve() == self.skip):
                continue
            if self.recursive:
                yield child
                if not child.is_symlink():  # a link to a parent would never end
                    yield from self._below(child)
            elif child.name.casefold() == "images" or self._layout_masks(child):
                yield child

    def _layout_masks(self, folder: Path) -> list[Path]:
        """0.png, 1.png, ... of a folder that also has an image.*; else none."""
        files = self._list(folder)[0]
        if not any(nfc_stem(f).casefold() == "image" for f in files):
            return []
        return [f for f in files if nfc_stem(f).isdecimal()]

    def _pictures(self, folder: Path) -> list[Path]:
        if folder not in self._taken:
            files, index = self._list(folder)[0], self._index(folder)
            others = set(self._layout_masks(folder))
            for belonging in (index.masks_of, index.pointmaps_of):
                others.update(file for stem, files_of in belonging.items() if stem in index.of_stem for file in files_of)
            self._taken[folder] = [f for f in files if f not in others]
        return self._taken[folder]

    def _jobs(self, image: Path) -> list[Pair]:
        """One picture's jobs: one, or as many as the layout has masks."""
        name = nfc_stem(image)
        for rule in self.rules:
            if rule in ("folder", "suffix"):
                masks = self._in_masks_folder(image) if rule == "folder" else self._beside(image)
                if masks:
                    return [Pair(name, image, tuple(masks), rule, error=self._ambiguity(image, masks))]
            elif rule == "layout":
                numbered = self._layout_masks(image.parent) if name.casefold() == "image" else []
                if numbered:
                    folder = unicodedata.normalize("NFC", image.parent.resolve().name)
                    return [Pair(f"{folder}_{nfc_stem(mask)}", image, (mask,), rule) for mask in numbered]
            elif rule == "alpha":
                try:
                    if _has_alpha(image):
                        return [Pair(name, image, (), rule)]
                except ImageError as problem:
                    return [Pair(name, image, error=problem)]
            else:
                return [Pair(name, image, (), rule)]
        by = f" by the rule {self.rules[0]!r}" if self.forced else ""
        return [Pair(name, image, error=PairingError(f"No mask for {image.name}{by}.", _NO_MASK_HINT))]

    def _beside(self, image: Path) -> list[Path]:
        return self._index(image.parent).masks_of.get(nfc_stem(image), [])

    def _in_masks_folder(self, image: Path) -> list[Path]:
        """masks/ beside the picture or beside a folder above it (up to the root), with the same path below it; images/ doesn't count."""
        places: list[tuple[Path, tuple[str, ...]]]
        try:
            path = image.parent.relative_to(self.root).parts
        except ValueError:  # a table names a picture elsewhere
            places = [(image.parent, ())]
        else:
            places = [(self.root.joinpath(*path[:i]), path[i:]) for i in range(len(path), -1, -1)]
            if self.root.resolve().name.casefold() == "images":
                places.append((self.root.resolve().parent, path))
        found: list[Path] = []
        for top, below in places:
            inner = below[1:] if below and below[0].casefold() == "images" else below
            for masks in self._index(top).masks_folders:
                found += self._index(masks.joinpath(*inner)).of_stem.get(nfc_stem(image), [])
        return found

    def _ambiguity(self, image: Path, masks: list[Path]) -> PairingError | None:
        if len(masks) > 1:
            names = " and ".join(m.name if m.parent == image.parent else f"{m.parent.name}/{m.name}" for m in masks)
            return PairingError(
                f"{image.name} has {len(masks)} possible masks: {names}.",
                "Keep one, or name the right one in pairs.csv; --pair forces another rule.",
            )
        twins = self._index(image.parent).of_stem.get(nfc_stem(image), [])
        if len(twins) > 1 and len(twins := [f for f in twins if f in self._pictures(image.parent)]) > 1:
            return PairingError(
                f"The mask {masks[0].name} fits {len(twins)} pictures: {' and '.join(f.name for f in twins)}.",
                "Keep one of them, or say in pairs.csv which is meant.",
            )
        return None


def _has_alpha(path: Path) -> bool:
    """Whether the header promises transparency. Raises ImageError where the file is no picture."""
    import warnings

    from PIL import Image

    from .images import has_alpha  # here: this module alone costs no numpy

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a picture that is too large is refused where it is read
            with Image.open(path) as picture:
                return has_alpha(picture)
    except Exception as problem:  # Pillow's decoders raise many kinds
        raise ImageError(f"{path.name} can't be read as a picture.", "Open and save it again as PNG.", detail=repr(problem)) from None


# --- tables ----------------------------------------------------------------------------------------------------------


def _table_of(source: Path, pair: str | None) -> Path | None:
    """The table that decides, or None. A folder's table counts unless another rule is forced."""
    if source.is_file():
        if source.suffix.lower() in (".csv", ".jsonl"):
            return source
        raise PairingError(f"{source} is a file.", "Give a folder, or a table (.csv, .jsonl); for one picture use `reconstruct`.")
    if not source.is_dir():
        raise PairingError(f"There is no folder {source}.", "Check the path.")
    found = [source / name for name in TABLES if (source / name).is_file()]
    if pair not in (None, "table"):
        return None
    if len(found) > 1:
        raise PairingError(f"{source} has both {TABLES[0]} and {TABLES[1]}.", "Keep one, or give the right one as the input.")
    if pair == "table" and not found:
        raise PairingError(f"{source} has no {TABLES[0]} or {TABLES[1]}.", "Write one (docs/batch.md), or leave --pair out.")
    return found[0] if found else None


def _rows(table: Path) -> Iterator[Pair]:
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise PairingError(f"{table.name} can't be read: {problem}.", "Save it as UTF-8 text.") from None
    lines = _csv_rows(table, text) if table.suffix.lower() == ".csv" else _jsonl_rows(text)
    for number, row in lines:
        try:
            yield _row(table, number, row)
        except PairingError as problem:
            yield Pair(f"{table.stem}_line_{number}", table, error=problem)


def _csv_rows(table: Path, text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Rows with their line numbers; a cell's text stays text. The delimiter is the one that the header uses: , ; or tab."""
    header = text.split("\n", 1)[0]
    delimiter = next((d for d in ",;\t" if d in header), ",")
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    columns = [c.strip().lower() for c in next(reader, [])]
    if "image" not in columns or len(set(columns)) != len(columns):
        raise PairingError(
            f"{table.name} needs a first line with the column names; they are: {', '.join(columns) or 'none'}.",
            "Begin with: image,mask,name (and any parameter, e.g. seed); each column once.",
        )
    for cells in reader:
        if any(cell.strip() for cell in cells):
            wide = len(cells) > len(columns)
            yield reader.line_num, None if wide else {k: v.strip() for k, v in zip(columns, cells) if v.strip()}


def _jsonl_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield number, row if isinstance(row, dict) else None


def _row(table: Path, number: int, row: dict[str, Any] | None) -> Pair:
    where = f"{table.name}, line {number}"
    if row is None:
        raise PairingError(f"{where} can't be read.", "A CSV row has as many cells as the header; a JSONL line is one JSON object.")
    cells = dict(row)
    image, mask, name = cells.pop("image", None), cells.pop("mask", None), cells.pop("name", None)
    params = cells.pop("params", None) or {}
    try:
        params = json.loads(params) if isinstance(params, str) else params
    except ValueError:
        params = None
    if not isinstance(params, dict):
        raise PairingError(f"{where}: params is no JSON object.", 'Write e.g. {"seed": 3, "preset": "figure"}.')
    if not isinstance(image, str) or not image or not isinstance(name, (str, type(None))):
        raise PairingError(f"{where} names no image.", "Give the picture's path, relative to the table.")
    if isinstance(mask, str):
        mask = [mask] if (table.parent / mask).is_file() else [part.strip() for part in mask.split("|") if part.strip()]
    if mask is not None and not (isinstance(mask, list) and all(isinstance(m, str) for m in mask)):
        raise PairingError(f"{where}: mask is no path and no list of paths.", "Several masks: a JSON list, or in a CSV a|b|c.")
    files = [_existing(table.parent / part) for part in (image, *(mask or []))]
    for text, path in zip((image, *(mask or [])), files):
        if not path.is_file():
            raise PairingError(f"{where}: there is no file {text}.", "Paths are relative to the table.")
    named = unicodedata.normalize("NFC", name) if name else nfc_stem(files[0])
    return Pair(named, files[0], tuple(files[1:]), "table", {**cells, **params})


def _existing(path: Path) -> Path:
    """The file as the disk spells it: a table typed in NFC may name a file whose name is NFD, or the other way round."""
    for form in ("NFC", "NFD"):
        if not path.exists():
            other = path.with_name(unicodedata.normalize(form, path.name))
            path = other if other.exists() else path
    return path
