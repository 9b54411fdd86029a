"""The Backend: the verbs that every front door calls, and the events of a job.

`client.local` (a worker process) and `client.remote` (our HTTP API) implement it. Nodes, command line, server and executors know
only this file.

    backend = open_backend()
    scene = backend.reconstruct(request).result()          # wait
    for event in backend.reconstruct(request): ...         # or watch
    backend.prepare(PrepareRequest(image)).result()        # a picture first, then its masks one by one

A job's iterator yields Progress, Log and Preview, then exactly one of Done, Failed, Cancelled. It never raises for a failed
job; `result()` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Union

import numpy as np

from .errors import Sam3dError
from .record import Record, array
from .request import ExportOptions, PrepareRequest, ReconstructRequest
from .scene import Scene

if TYPE_CHECKING:
    from .messages import Hello


@dataclass(frozen=True)
class Progress(Record):
    """step of total within a stage; 0 <= step <= total. fraction: of the whole job, 0..1, never falling. eta: seconds to the job's end, or None."""

    stage: str
    step: int
    total: int
    fraction: float = 0.0
    eta: float | None = None


@dataclass(frozen=True)
class Log(Record):
    """One line for a person. level: info or warning."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class Preview(Record):
    """A picture of the work so far: uint8 (H, W, 3), sRGB; 1024 pixels a side or less."""

    image: np.ndarray = array("uint8", "H W 3")


@dataclass(frozen=True)
class Done:
    scene: Scene


@dataclass(frozen=True)
class Failed:
    error: Sam3dError


@dataclass(frozen=True)
class Cancelled:
    """Somebody called `cancel()`; nothing was made."""


Event = Union[Progress, Log, Preview, Done, Failed, Cancelled]


class Reconstruction(Protocol):
    """A job under way."""

    def __iter__(self) -> Iterator[Event]:
        """The events from now on; ends after Done, Failed or Cancelled."""
        ...

    def poll(self, timeout: float) -> Event | None:
        """The next event, or None after `timeout` seconds without one (for a host that must look at an interrupt flag)."""
        ...

    def cancel(self) -> None:
        """Ask for the end; returns at once. The job ends with Cancelled (or Done, if it was faster)."""
        ...

    def result(self) -> Scene:
        """Wait for the end. Raises the job's Sam3dError, or JobCancelled."""
        ...


class Backend(Protocol):
    """Where reconstructions happen."""

    def reconstruct(self, request: ReconstructRequest) -> Reconstruction:
        """Start a job. The Scene's `files` holds what `request.outputs` names."""
        ...

    def prepare(self, request: PrepareRequest) -> Reconstruction:
        """Start a job that works out and keeps what depends on the picture alone: later requests with this picture skip it, and give the same result.
        Its scene has no objects: it names the engine, and what took time."""
        ...

    def export(self, scene: Scene, formats: Iterable[str], options: ExportOptions | None = None) -> dict[str, bytes]:
        """Encode a scene again, e.g. in another format: file name -> bytes. Reconstructs nothing."""
        ...

    def start(self) -> Hello:
        """Make ready now what a call would make ready by itself, and say who answers and which engines it has. Raises a Sam3dError."""
        ...

    def close(self) -> None:
        """Stop what was started for this backend. A later call starts it anew."""
        ...
