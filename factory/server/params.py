"""A job's parameters: the settings of the command line by the same names, as a pydantic model made from the contract's records.

Arrays are left out (a point map travels in a frame, client/remote.py), and nothing here is ever a path: `back_image` is the id of an uploaded picture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from ...contract.record import field_types
from ...contract.request import FORMATS, DraftOptions, ExportOptions, ReconstructRequest, Sam3dOptions
from ..settings import known, request_fields
from .ids import SHA

_RECORDS: dict[str, type[Any]] = {"request": ReconstructRequest, "draft": DraftOptions, "sam3d": Sam3dOptions, "export": ExportOptions}
_LEFT_OUT = ("pointmap", "intrinsics")
_TINY: dict[str, Any] = {"image": np.zeros((1, 1, 3), np.uint8), "masks": np.ones((1, 1, 1), bool)}


def whole(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _fields() -> dict[str, Any]:
    found: dict[str, Any] = {}
    one_of: Any = Literal
    many: Any = list  # both by a name that a type checker doesn't follow: the formats are values
    for name, part in known().items():
        if name in _LEFT_OUT:
            continue
        if name == "outputs":
            formats: Any = many[one_of[tuple(FORMATS)]]
            found[name] = (formats | None, Field(None, min_length=1, max_length=len(FORMATS), description="Which files to make."))
            continue
        if name == "back_image":
            found[name] = (
                str | None,
                Field(None, pattern=SHA, description="The id of an uploaded picture: the object seen from behind."),
            )
            continue
        record = _RECORDS[part]
        item = next((f for f in dataclasses.fields(record) if f.name == name), None)
        if item is None:  # it describes a point map's file
            continue
        limits = item.metadata.get("limits")
        bounds = dict(zip(("ge", "le"), limits)) if limits else {}
        kind = field_types(record)[name] | None
        found[name] = (Annotated[kind, BeforeValidator(whole)] if int in get_args(kind) else kind, Field(None, **bounds))
    return found


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Parameters: type[BaseModel] = create_model(
    "Parameters", __base__=_Strict, __doc__="docs/cli.md says what each means. What is left out is as quality and target say.", **_fields()
)


def given(parameters: BaseModel | None) -> dict[str, Any]:
    """What a caller set, and nothing else."""
    return {} if parameters is None else parameters.model_dump(exclude_none=True)


def record_fields(params: Mapping[str, Any], back_image: np.ndarray | None = None) -> dict[str, Any]:
    """Keyword arguments for a ReconstructRequest. back_image: uint8 (H, W, 4), for the id that stands in the parameters. Raises OptionError."""
    back = "back_image" in params
    rest = {k: v for k, v in params.items() if k != "back_image" and not (back and k == "back")}
    fields = request_fields(rest)
    if back:
        image = np.zeros((1, 1, 4), np.uint8) if back_image is None else back_image
        fields["draft"] = fields["draft"].replace(back=params.get("back", "image"), back_image=image)
    return fields


def check(params: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters after defaults, as JSON values. Raises the OptionError that the job would end with."""
    request = ReconstructRequest(**_TINY, **record_fields(params))
    return {**request.parameters(), "names": None, "back_image": params.get("back_image")}


def request_key(image: str, masks: tuple[str, ...], names: tuple[str, ...], params: Mapping[str, Any]) -> str:
    """sha256 of all that decides a result, but for who makes it: equal pixels and equal parameters after defaults, equal key."""
    return digest({"image": image, "masks": masks, "names": names, "params": check(params)})


def result_key(request_key: str, version: str, engines: tuple[str, ...], weights: str, extra: str = "") -> str:
    """`request_key` and who makes it: the pack's version, the engine that `auto` means, the weights."""
    return digest({"request": request_key, "version": version, "auto": engines[-1:], "weights": weights, "extra": extra})


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
