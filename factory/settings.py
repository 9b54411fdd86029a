"""`key=value` settings -> fields of a request: what --set, the short options and a table's columns have in common.

The names are those of the contract's dataclasses (ReconstructRequest, DraftOptions, Sam3dOptions, ExportOptions), so a new parameter of an
engine needs no line here. Values come as text or as JSON values; the records check them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..contract.errors import OptionError
from ..contract.images import read_image
from ..contract.request import FORMATS, DraftOptions, ExportOptions, ReconstructRequest, Sam3dOptions

_OF_REQUEST = ("engine", "seed", "quality", "texture_size", "face_budget", "size", "outputs")
_PARTS: dict[str, type[Any]] = {"draft": DraftOptions, "sam3d": Sam3dOptions, "export": ExportOptions}
_ALIASES = {"faces": "face_budget", "format": "outputs", "formats": "outputs"}
_OF_POINTMAP = ("pointmap_frame", "intrinsics", "fov_x", "depth_scale")  # what a point map's file is read by
FILES = ("back_image", "pointmap", "intrinsics")  # settings whose text may be the path of a file


@functools.cache
def known() -> dict[str, str]:
    """Every setting -> the part of a request that it belongs to: request, draft, sam3d or export."""
    found = dict.fromkeys(_OF_REQUEST, "request")
    for part, kind in _PARTS.items():
        found |= {item.name: part for item in dataclasses.fields(kind)}
    return found | dict.fromkeys(_OF_POINTMAP, "sam3d")


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """`["thickness=0.5", "back=mirror"]` -> {"thickness": 0.5, "back": "mirror"}. Raises OptionError."""
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign:
            raise OptionError(f"{text!r} is no setting.", "Write it as name=value, e.g. --set thickness=0.5.")
        found[canonical(key.strip())] = value.strip()
    return found


def canonical(key: str) -> str:
    """The setting's name, with `faces` for face_budget, `format` for outputs and `-` for `_`. Raises OptionError with a suggestion."""
    name = key.lower().replace("-", "_")
    name = _ALIASES.get(name, name)
    if name not in known():
        near = difflib.get_close_matches(name, known(), 1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(known()))}."
        raise OptionError(f"There is no setting {key!r}.", hint)
    return name


def request_fields(settings: Mapping[str, Any], *, base: Path | None = None, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Keyword arguments for ReconstructRequest. Raises OptionError.

    settings: name -> text or JSON value; None stays as the engine has it. base: where the files of FILES lie, if their paths are relative.
    size: the picture's (H, W), which a point map is checked against and brought to.
    """
    parts: dict[str, dict[str, Any]] = {"request": {}, **{part: {} for part in _PARTS}}
    of_map: dict[str, Any] = {}
    for key, value in settings.items():
        name = canonical(key)
        if value is None:
            continue
        if name == "back_image":
            value = _rgba(value, base)
        elif name == "pointmap" or name in _OF_POINTMAP:
            of_map[name] = value
            continue
        elif name == "outputs":
            value = _formats(value)
        elif isinstance(value, str):
            value = _value(value)
        parts[known()[name]][name] = value
    parts["sam3d"] |= _pointmap(of_map, base, size)
    return {**parts["request"], **{part: _made(kind, parts[part]) for part, kind in _PARTS.items()}}


def check_settings(settings: Mapping[str, Any], *, base: Path | None = None) -> None:
    """Raises the OptionError that a request with these settings would raise, without a picture. A point map is read with its picture, not here."""
    import numpy as np

    fields = request_fields({key: value for key, value in settings.items() if canonical(key) != "pointmap"}, base=base)
    with _naming():
        ReconstructRequest(image=np.zeros((1, 1, 3), np.uint8), masks=np.ones((1, 1, 1), bool), **fields)


def unused(settings: Mapping[str, Any], engine: str) -> str | None:
    """A sentence about settings that the other engine looks at, where this one made the scene; None where there are none."""
    other = {"draft": "sam3d", "sam3d": "draft"}.get(engine)
    names = sorted({canonical(key) for key, value in settings.items() if not _is_none(value)})
    idle = [name for name in names if known()[name] == other]
    return f"made by {engine}, which doesn't look at {', '.join(idle)}: only the engine {other} does" if idle else None


def check_pointmap(settings: Mapping[str, Any]) -> None:
    """Raises OptionError where something describes a point map, and none is given. Not for batches: there only some pictures may have one."""
    names = {canonical(key) for key, value in settings.items() if not _is_none(value)}
    lone = sorted(names & set(_OF_POINTMAP))
    if lone and "pointmap" not in names:
        raise OptionError(f"{lone[0]} describes a point map, and none is given.", f"Add --pointmap FILE, or leave {lone[0]} out.")


def _made(kind: type[Any], fields: dict[str, Any]) -> Any:
    with _naming():
        return kind(**fields)


@contextlib.contextmanager
def _naming() -> Iterator[None]:
    """Errors of the records name their classes; a user knows only the setting's name."""
    try:
        yield
    except OptionError as problem:
        text = problem.message
        for prefix in ("DraftOptions.", "Sam3dOptions.", "ExportOptions.", "ReconstructRequest."):
            text = text.replace(prefix, "")
        raise OptionError(text, problem.hint) from None


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.lower() in ("none", "null"))


def _value(text: str) -> Any:
    """A number, true, false, none or a word."""
    lowered = text.lower()
    if _is_none(text):
        return None
    if lowered in ("true", "false"):
        return lowered == "true"
    try:
        return json.loads(text)
    except ValueError:
        return text


def _formats(value: Any) -> tuple[str, ...]:
    """`glb,ply` or a list -> names without repeats; which names exist, the request knows."""
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not parts or not all(isinstance(p, str) for p in parts):
        raise OptionError(f"{value!r} is no list of formats.", f"Choose among: {', '.join(FORMATS)}.")
    names = tuple(dict.fromkeys(part for text in parts for part in text.lower().replace(",", " ").split()))
    if not names:
        raise OptionError("The list of formats is empty.", f"Choose among: {', '.join(FORMATS)}.")
    return names


def _pointmap(of_map: dict[str, Any], base: Path | None, size: tuple[int, int] | None) -> dict[str, Any]:
    """The file `pointmap` with what describes it -> keywords of Sam3dOptions. Raises OptionError."""
    values = {name: _value(value) if isinstance(value, str) and name != "pointmap" else value for name, value in of_map.items()}
    file = values.pop("pointmap", None)
    if _is_none(file):  # also as a word: not the file that lies beside this picture
        return {name: value for name, value in values.items() if name == "pointmap_frame"}
    if not isinstance(file, (str, Path)):
        raise OptionError("pointmap must be the path of a file.", "Give an .npy or .npz file, or a 16-bit picture of depth.")
    from ..contract.pointmaps import read_pointmap

    try:
        matrix = _matrix(values.get("intrinsics"), base)
        made = read_pointmap(
            (base or Path()) / file,
            size,
            frame=values.get("pointmap_frame"),
            intrinsics=matrix,
            fov_x=values.get("fov_x"),
            depth_scale=values.get("depth_scale"),
        )
    except OptionError as problem:
        more = f"Settings that describe a map: {', '.join(_OF_POINTMAP)} (docs/pointmaps.md)."
        raise OptionError(problem.message, f"{problem.hint} {more}") from None
    return made.options()


def _matrix(value: Any, base: Path | None) -> Any:
    """Intrinsics: an .npy file, or a list of lists; what they must be, the contract knows."""
    import numpy as np

    if not isinstance(value, (str, Path)):
        return value
    try:
        return np.load((base or Path()) / value, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise OptionError(
            f"intrinsics can't be read: {problem}.", "Give an .npy file of 3x3 numbers, or [[fx,0,cx],[0,fy,cy],[0,0,1]]."
        ) from None


def _rgba(value: Any, base: Path | None) -> Any:
    import numpy as np

    if not isinstance(value, (str, Path)):
        raise OptionError("back_image must be the path of a picture.", "Give a PNG, seen from behind.")
    picture = read_image((base or Path()) / value)
    alpha = picture.alpha if picture.alpha is not None else np.full(picture.image.shape[:2], 255, np.uint8)
    return np.dstack([picture.image, alpha])
