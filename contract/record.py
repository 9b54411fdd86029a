"""Records: small immutable dataclasses that may hold numpy arrays, and that know how to become JSON plus tensors.

A record is a frozen dataclass deriving from `Record`. An array field is declared with `array("uint8", "H W 3")`; the
letters name dimensions that must agree within one record. `pack` turns a record into (JSON value, {name: array}) and
`unpack` builds it again and checks it: the wire protocol, the JSON schema and the cache keys all come from this one walk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, TypeVar, Union

import numpy as np

from .errors import OptionError

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class ArraySpec:
    """dtype as numpy spells it; shape in words: names for free dimensions, numbers for fixed ones, `*` for any rank."""

    dtype: str
    shape: str
    optional: bool


def array(dtype: str, shape: str, *, optional: bool = False) -> Any:
    """A dataclass field holding an array of this dtype and shape; optional ones default to None."""
    return field(default=None if optional else MISSING, metadata={"array": ArraySpec(dtype, shape, optional)})


def limits(default: Any, low: float, high: float) -> Any:
    """A number that must lie in [low, high]; None stays allowed where the type says so."""
    return field(default=default, metadata={"limits": (low, high)})


class Record:
    """Base of the contract's dataclasses: checks and freezes its fields once, when it is made."""

    def __post_init__(self) -> None:
        dims: dict[str, int] = {}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if "array" in item.metadata:
                object.__setattr__(self, item.name, _checked_array(self, item.name, value, item.metadata["array"], dims))
            else:
                object.__setattr__(self, item.name, _checked_value(self, item.name, value, field_types(type(self))[item.name]))
                _check_limits(self, item.name, getattr(self, item.name), item.metadata.get("limits"))
        self.check()

    def check(self) -> None:
        """Rules between fields; a subclass raises an InputError with what happened and what to do."""

    def replace(self: R, **changes: Any) -> R:
        """A copy with these fields changed, checked again."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def _where(record: Record, name: str) -> str:
    return f"{type(record).__name__}.{name}"


def _checked_array(record: Record, name: str, value: Any, spec: ArraySpec, dims: dict[str, int]) -> np.ndarray | None:
    """The array as a read-only view, if its dtype and shape are those declared. `dims`: the sizes of the record's letters so far."""
    if value is None:
        if spec.optional:
            return None
        raise OptionError(f"{_where(record, name)} is missing.", f"Give a {spec.dtype} array of shape ({spec.shape}).")
    try:
        got: np.ndarray = np.asarray(value)
    except (ValueError, TypeError) as problem:  # ragged lists, foreign objects
        raise OptionError(
            f"{_where(record, name)} is no array: {problem}.", f"Give a {spec.dtype} array of shape ({spec.shape})."
        ) from None
    if got.dtype != np.dtype(spec.dtype):
        raise OptionError(f"{_where(record, name)} is {got.dtype}, not {spec.dtype}.", "Convert it first; nothing is converted silently.")
    if spec.shape != "*":
        want = spec.shape.split()
        fits = got.ndim == len(want) and all((int(w) == n) if w.isdigit() else dims.setdefault(w, n) == n for w, n in zip(want, got.shape))
        if not fits:
            raise OptionError(
                f"{_where(record, name)} has shape {got.shape}, not ({', '.join(want)}).", "Sizes with the same letter must agree."
            )
    view: np.ndarray = got.view()  # the record's view is read-only; the caller's array stays as it was
    view.setflags(write=False)
    return view


def _checked_value(record: Record, name: str, value: Any, hint: Any) -> Any:
    """The value in the declared type (lists become tuples, whole floats become ints), or one clear error."""
    try:
        return _coerce(value, hint)
    except (TypeError, ValueError, OverflowError) as problem:
        raise OptionError(f"{_where(record, name)}: {problem}.", "Correct this value; docs/schema lists what is accepted.") from None


def _coerce(value: Any, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)))
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            raise ValueError(f"{_short(value)} is none of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list, np.ndarray)):
            raise TypeError(f"{_short(value)} is no list")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_coerce(v, args[0]) for v in value)
        if len(value) != len(args):
            raise ValueError(f"needs {len(args)} values, got {len(value)}")
        return tuple(_coerce(v, a) for v, a in zip(value, args))
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise TypeError(f"{_short(value)} is no mapping")
        return types.MappingProxyType({str(k): _coerce(v, args[1]) for k, v in value.items()})
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)) or not math.isfinite(value):
            raise TypeError(f"{_short(value)} is no finite number")
        return float(value)
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer)) or int(value) != value:
            raise TypeError(f"{_short(value)} is no whole number")
        return int(value)
    if not isinstance(value, hint):
        raise TypeError(f"{_short(value)} is no {getattr(hint, '__name__', hint)}")
    return value


def _short(value: Any) -> str:
    """A value in an error's words, never long."""
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else reprlib.repr(value)


def _check_limits(record: Record, name: str, value: Any, bounds: tuple[float, float] | None) -> None:
    if bounds is None or value is None:
        return
    low, high = bounds
    if not low <= value <= high:
        got, least, most = (
            str(v) if isinstance(v, int) else f"{v:g}" for v in (value, low, high)
        )  # whole numbers in full, as seeds are long
        raise OptionError(f"{_where(record, name)} is {got}, outside {least} to {most}.", "Choose a value inside the range.")


_HINTS: dict[type, dict[str, Any]] = {}


def field_types(kind: type) -> dict[str, Any]:
    """A record's fields and their types."""
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def pack(value: Any, prefix: str = "") -> tuple[Any, dict[str, np.ndarray]]:
    """A record (or tuple, mapping, scalar) as a JSON value and its arrays; an array's place holds {"$": its name}."""
    if isinstance(value, np.ndarray):
        return {"$": prefix}, {prefix: value}
    if isinstance(value, Record):
        items: Any = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))  # type: ignore[arg-type]
    elif isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (tuple, list)):
        parts = [pack(v, f"{prefix}/{i}") for i, v in enumerate(value)]
        return [p[0] for p in parts], {k: a for p in parts for k, a in p[1].items()}
    else:
        return value, {}
    plain: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for key, item in items:
        plain[key], more = pack(item, f"{prefix}/{key}")
        arrays |= more
    return plain, arrays


def unpack(kind: Any, value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `pack` for the declared type `kind`. Unknown keys are an OptionError: nothing is dropped silently."""
    if isinstance(value, dict) and set(value) == {"$"} and isinstance(value["$"], str):  # else: a mapping with such a key
        if value["$"] not in arrays:
            raise OptionError(f"The array {value['$']!r} is missing from the message.")
        return arrays[value["$"]]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else unpack(next(a for a in args if a is not type(None)), value, arrays)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            return value  # the record says what is wrong with it
        return tuple(unpack(k, v, arrays) for k, v in zip(kinds, value))
    if origin in (Mapping, dict) and isinstance(value, Mapping):
        return {k: unpack(args[1], v, arrays) for k, v in value.items()}
    if isinstance(kind, type) and issubclass(kind, Record):
        if not isinstance(value, Mapping):
            raise OptionError(f"{kind.__name__} must be an object, not {type(value).__name__}.")
        hints = field_types(kind)
        for key in value:
            if key not in hints:
                raise OptionError(f"{kind.__name__} has no field {key!r}.", f"It has: {', '.join(hints)}.")
        try:
            return kind(**{k: unpack(hints[k], v, arrays) for k, v in value.items()})
        except TypeError as problem:
            raise OptionError(f"{kind.__name__}: {problem}.") from None
    return value


def _json_of_scalar(value: Any) -> Any:
    """numpy's scalars, where a mapping of JSON values holds some."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def content_key(value: Any) -> str:
    """sha256 (hex) over a record's values and arrays: equal content, equal key, on every machine and Python."""
    plain, arrays = pack(value)
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":"), default=_json_of_scalar).encode())
    for name in sorted(arrays):
        item = arrays[name]
        digest.update(f"\0{name}\0{item.dtype.str}\0{item.shape}\0".encode())
        digest.update(np.ascontiguousarray(item).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
