"""Which jobs a batch has, what each is called, and how a job's files are told from those of the last time."""

from __future__ import annotations

import hashlib
import json
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...contract.errors import ImageError, InputError, OptionError, PairingError, Sam3dError
from ...contract.names import safe_filename
from ...contract.pairing import IMAGE_SUFFIXES, Pair, find_pairs, select
from ...contract.request import ReconstructRequest
from ...contract.version import VERSION
from ..executors import check_executor
from ..inputs import MaskOptions, make_request
from ..settings import FILES, canonical, check_settings

RESERVED = ("manifest.jsonl", "report.html", "report_files")  # names in the output folder that are the batch's own
FIELDS = ("stem", "folder", "seed", "engine", "quality", "preset")
_DEFAULTS = {"seed": "0", "engine": "auto", "quality": "standard", "preset": "auto"}

Identity = tuple[str, tuple[str, ...], int]  # image, masks, and which one of several with the same files


@dataclass(frozen=True)
class BatchOptions:
    """What the command line says; see `batch --help`."""

    source: Path
    out: Path
    pair: str | None = None
    recursive: bool = False
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    force: bool = False
    retry_failed: bool = False
    retry_quarantined: bool = False
    fail_fast: bool = False
    retries: int = 1
    flat: bool = False
    template: str = "{stem}"
    workers: int | None = None
    gpus: str | None = None
    executor: str = "local"
    watch: bool = False
    interval: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    masks: MaskOptions = field(default_factory=MaskOptions)

    def check(self) -> None:
        """Raises an InputError or SetupError for options that can't be meant, before anything is read or made."""
        from ..automask import check_method

        check_method(self.masks.auto)
        if self.pair == "auto" and self.masks.auto is None:
            raise OptionError("--pair auto needs to know how.", "Add --auto-mask border or --auto-mask grabcut.")
        check_settings(self.settings)
        _template_fields(self.template)
        check_executor(self.executor, workers=self.workers, gpus=self.gpus)
        formats = self.settings.get("outputs", ())
        if self.flat and any(
            "obj" in str(f).lower().replace(",", " ").split() for f in ([formats] if isinstance(formats, str) else formats)
        ):
            raise OptionError("--flat can't be used with obj.", "OBJ files name each other; leave --flat out.")


@dataclass(frozen=True)
class Item:
    """One job. identity: which files it is made of, relative to the source where they are inside it. error: why it can't be done."""

    name: str
    pair: Pair
    identity: Identity
    settings: Mapping[str, Any]
    error: Sam3dError | None = None

    @property
    def images(self) -> tuple[Path, ...]:
        return (self.pair.image, *self.pair.masks)

    @property
    def engine(self) -> str:
        """The one asked for."""
        return str(self.settings.get("engine") or _DEFAULTS["engine"])

    @property
    def further(self) -> dict[str, Path]:
        """The files that its settings name, setting -> path; they need not exist."""
        named = {name: self.settings[name] for name in FILES if isinstance(self.settings.get(name), (str, Path))}
        return {name: self.pair.image.parent / value for name, value in named.items() if not str(value).startswith("[")}


@dataclass(frozen=True)
class Stamp:
    """The bytes of an item's files, its parameters and the pack's version: equal stamps, equal request, without decoding anything."""

    image_sha: str
    mask_sha: str
    params_hash: str


def make_plan(options: BatchOptions, previous: Mapping[Identity, str] | None = None) -> list[Item]:
    """The items of the source, in natural order. previous: names that earlier runs gave; an item keeps its name, also when a neighbour comes.

    Raises PairingError where the source as a whole can't be used.
    """
    pairs = find_pairs(options.source, pair=options.pair, recursive=options.recursive, skip=options.out)
    if options.masks.auto is not None and options.pair is None:
        pairs = [_with_auto_mask(pair) for pair in pairs]
    base = options.source if options.source.is_dir() else options.source.parent
    seen: Counter[tuple[str, tuple[str, ...]]] = Counter()
    items = []
    for pair in pairs:
        files = (_relative(pair.image, base), tuple(_relative(mask, base) for mask in pair.masks))
        seen[files] += 1
        items.append(_item(pair, (*files, seen[files]), options))
    named = _named(items, options, previous or {})  # before any is left out: a filter changes no names
    kept = {id(pair) for pair in select(pairs, base, options.only, options.exclude)}
    return [item for item in named if id(item.pair) in kept][: options.limit]


def request_of(item: Item, options: BatchOptions) -> ReconstructRequest:
    """The item's request. Raises the item's own error, or an InputError."""
    if item.error is not None:
        raise item.error
    auto = replace(options.masks, always_auto=item.pair.rule == "auto")
    return make_request(
        item.pair.image,
        item.pair.masks,
        name=safe_filename(item.pair.name),
        settings=item.settings,
        options=auto,
        base=item.pair.image.parent,
    )


def stamp_of(item: Item, options: BatchOptions) -> Stamp:
    """Raises ImageError where a file can't be read."""
    shas = []
    for path in item.images:
        try:
            shas.append(hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError as problem:
            raise ImageError(f"{path.name} can't be read: {problem.strerror or problem}.", "Check the file and its permissions.") from None
    masks = options.masks
    params = {
        "settings": {
            name: value if isinstance(value, (str, int, float, bool, list)) else str(value) for name, value in item.settings.items()
        },
        "masks": [masks.auto, masks.invert, masks.resize, masks.allow_full, masks.kind, item.pair.rule == "auto"],
        "name": item.pair.name,
        "version": VERSION,
        "back_image": None,
        **{name: _sha(path) for name, path in item.further.items()},
    }
    text = json.dumps(params, sort_keys=True)
    return Stamp(shas[0], hashlib.sha256("".join(shas[1:]).encode()).hexdigest(), hashlib.sha256(text.encode()).hexdigest())


def _sha(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None  # making the request will say so


def _relative(path: Path, base: Path) -> str:
    try:
        return path.relative_to(base).as_posix()
    except ValueError:
        return path.as_posix()


def _with_auto_mask(pair: Pair) -> Pair:
    """A picture without any mask gets one found."""
    return replace(pair, rule="auto", error=None) if is_bare(pair) else pair


def is_bare(pair: Pair) -> bool:
    """A picture for which no rule found a mask (and nothing else is wrong with it)."""
    return pair.rule == "none" and isinstance(pair.error, PairingError) and pair.image.suffix.lower() in IMAGE_SUFFIXES


def _item(pair: Pair, identity: Identity, options: BatchOptions) -> Item:
    settings = dict(options.settings)
    error = pair.error
    if pair.pointmap is not None:
        settings.setdefault("pointmap", pair.pointmap.name)
    if error is None and pair.params:
        try:
            settings |= {canonical(key): value for key, value in pair.params.items()}
            check_settings(settings, base=pair.image.parent)
        except InputError as problem:
            error = problem
    return Item("", pair, identity, settings, error)


def _template_fields(template: str) -> None:
    """Raises OptionError for anything but the plain fields: a template is no program."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as problem:
        raise OptionError(f"--template {template!r} can't be read: {problem}.", "Write e.g. {stem}_{seed}.") from None
    for _, name, spec, conversion in parts:
        if name is not None and (name not in FIELDS or spec or conversion):
            raise OptionError(f"--template {template!r} has the unknown field {{{name}}}.", f"There are: {', '.join(FIELDS)}.")
    if not any(name in ("stem", "folder") for _, name, _, _ in parts):
        raise OptionError(f"--template {template!r} would call all results the same.", "Use {stem} in it.")


def _base_name(item: Item, options: BatchOptions) -> str:
    values = {name: str(item.settings.get(name, default)) for name, default in _DEFAULTS.items()}
    folder = item.pair.image.parent.resolve().name
    return safe_filename(options.template.format(stem=item.pair.name, folder=folder, **values))


def _named(found: list[Item], options: BatchOptions, previous: Mapping[Identity, str]) -> list[Item]:
    """Names as `unique_filenames` gives them, except that an item which had a name keeps it."""
    taken = {name.casefold() for name in RESERVED}
    names: dict[int, str] = {}
    for number, item in enumerate(found):
        old, wanted = previous.get(item.identity), _base_name(item, options)
        if old is not None and old.casefold() not in taken and _is_numbered(old, wanted):
            names[number] = old
            taken.add(old.casefold())
    for number, item in enumerate(found):
        if number not in names:
            wanted = name = _base_name(item, options)
            count = 2
            while name.casefold() in taken:
                name, count = f"{wanted}-{count}", count + 1
            names[number] = name
            taken.add(name.casefold())
    return [replace(item, name=names[number]) for number, item in enumerate(found)]


def _is_numbered(name: str, wanted: str) -> bool:
    """`steak-2` is a form of `steak`."""
    return name == wanted or (name.startswith(f"{wanted}-") and name[len(wanted) + 1 :].isdecimal())
