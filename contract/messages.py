"""The messages of the wire, one small dataclass each; docs/protocol.md says who sends what when.

`to_wire` and `from_wire` are the whole encoding: a message is {"type": its name, ...fields}, arrays go beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .backend import Log, Preview, Progress
from .errors import ProtocolError, Sam3dError
from .record import Record, pack, unpack
from .request import ExportOptions, PrepareRequest, ReconstructRequest
from .scene import Scene

# How the client tells a worker, in its environment, what can't be a message: the descriptor whose end it holds (worker/channel.py), and the
# seconds without a heartbeat after which it gives the worker up.
LIFELINE_VARIABLE = "SAM3D_LIFELINE_FD"
SILENCE_VARIABLE = "SAM3D_WORKER_SILENCE"

# -- client to worker


@dataclass(frozen=True)
class Reconstruct(Record):
    job: int
    request: ReconstructRequest


@dataclass(frozen=True)
class Prepare(Record):
    job: int
    request: PrepareRequest


@dataclass(frozen=True)
class Export(Record):
    job: int
    scene: Scene
    formats: tuple[str, ...]
    options: ExportOptions = field(default_factory=ExportOptions)


@dataclass(frozen=True)
class Cancel(Record):
    job: int


# -- worker to client


@dataclass(frozen=True)
class Hello(Record):
    """The worker's first message, once. engines: the names it knows; `auto` is the last of them. weights: a digest of those that sam3d would use, empty
    where it has none."""

    protocol: int
    version: str
    pid: int
    python: str
    engines: tuple[str, ...] = ()
    weights: str = ""


@dataclass(frozen=True)
class Beat(Record):
    """A heartbeat; carries nothing."""


@dataclass(frozen=True)
class JobProgress(Record):
    job: int
    progress: Progress


@dataclass(frozen=True)
class JobLog(Record):
    job: int
    log: Log


@dataclass(frozen=True)
class JobPreview(Record):
    job: int
    preview: Preview


@dataclass(frozen=True)
class JobDone(Record):
    job: int
    scene: Scene


@dataclass(frozen=True)
class JobExported(Record):
    job: int
    files: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class JobFailed(Record):
    job: int
    error: Mapping[str, str]


@dataclass(frozen=True)
class JobStopped(Record):
    job: int


FROM_CLIENT = {kind.__name__: kind for kind in (Reconstruct, Prepare, Export, Cancel)}
FROM_WORKER = {kind.__name__: kind for kind in (Hello, Beat, JobProgress, JobLog, JobPreview, JobDone, JobExported, JobFailed, JobStopped)}


def to_wire(message: Record) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A message as JSON object and arrays, for `frames.encode_frame`. Raises TypeError for values nested without end."""
    try:
        plain, arrays = pack(message)
    except RecursionError:
        raise TypeError("its values are nested too deeply") from None
    return {"type": type(message).__name__, **plain}, arrays


def from_wire(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], known: Mapping[str, type[Record]]) -> Any:
    """The message, checked. Raises ProtocolError for a type that isn't in `known` or fields that don't fit."""
    kind = known.get(str(plain.get("type")))
    if kind is None:
        raise ProtocolError(f"Unknown message {plain.get('type')!r}.")
    try:
        return unpack(kind, {k: v for k, v in plain.items() if k != "type"}, arrays)
    except Sam3dError as problem:
        raise ProtocolError(f"A message {kind.__name__} doesn't fit: {problem.message}", detail=str(problem)) from problem
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as problem:  # JSON of any other shape
        raise ProtocolError(f"A message {kind.__name__} doesn't fit: {problem!r}") from problem
