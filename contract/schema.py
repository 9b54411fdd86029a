"""JSON Schema (2020-12) of the request and the scene, generated from the records: `python -m comfyui_sam3d.contract.schema`.

It describes what `pack` makes and `unpack` accepts. Arrays travel beside the JSON: in an array's place stands {"$": name}; the
keywords `dtype` and `shape` (letters name sizes that agree within one record) say what must go by that name. A record
checks more than a schema can say (that names differ, that masks aren't empty, ...).
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np

from .record import ArraySpec, Record, field_types, pack
from .request import ReconstructRequest
from .scene import Scene

FILES: dict[str, type[Record]] = {"request.json": ReconstructRequest, "scene.json": Scene}
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schema"


def schema(kind: type[Record]) -> dict[str, Any]:
    """The whole schema of a record, each record inside it under $defs."""
    defs: dict[str, Any] = {}
    top = _record(kind, defs)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind.__name__, **top, "$defs": dict(sorted(defs.items()))}


def _record(kind: type[Record], defs: dict[str, Any]) -> dict[str, Any]:
    properties, required = {}, []
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        spec = item.metadata.get("array")
        rule = _array(spec) if spec else _type(field_types(kind)[item.name], defs, item.metadata.get("limits"))
        if item.default is not dataclasses.MISSING:
            rule = {**rule, "default": pack(item.default)[0]}
        elif item.default_factory is not dataclasses.MISSING:
            rule = {**rule, "default": pack(item.default_factory())[0]}
        else:
            required.append(item.name)
        properties[item.name] = rule
    return {
        "description": inspect.getdoc(kind) or "",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _array(spec: ArraySpec | None) -> dict[str, Any]:
    """The place of an array; without a spec, of any."""
    rule: dict[str, Any] = {
        "type": "object",
        "properties": {"$": {"type": "string"}},
        "required": ["$"],
        "additionalProperties": False,
    }
    if spec is None:
        return rule
    shape = [int(side) if side.isdigit() else side for side in spec.shape.split()]
    rule |= {"dtype": spec.dtype, "shape": shape}
    return {"anyOf": [rule, {"type": "null"}]} if spec.optional else rule


def _type(hint: Any, defs: dict[str, Any], limits: tuple[float, float] | None = None) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(next(a for a in args if a is not type(None)), defs, limits), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return {"type": "array", "items": _type(args[0], defs)}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_type(a, defs) for a in args], "minItems": len(args), "items": False}
    if origin in (Mapping, dict):
        return {"type": "object", "additionalProperties": _type(args[1], defs)}
    if hint is np.ndarray:
        return _array(None)
    if isinstance(hint, type) and issubclass(hint, Record):
        if hint.__name__ not in defs:
            defs[hint.__name__] = {}  # named first: a record may hold its own kind
            defs[hint.__name__] = _record(hint, defs)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    names = {int: "integer", float: "number", str: "string", bool: "boolean"}
    bounds = dict(zip(("minimum", "maximum"), limits)) if limits else {}
    return {"type": names[hint], **bounds}


def text(kind: type[Record]) -> str:
    """The schema as it stands in its file."""
    return json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write the files of FILES into a folder; each appears whole."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, kind in FILES.items():
        aside = folder / f"{name}.part"
        aside.write_text(text(kind), encoding="utf-8", newline="\n")
        os.replace(aside, folder / name)
        paths.append(folder / name)
    return paths


if __name__ == "__main__":
    for path in write():
        print(path)
