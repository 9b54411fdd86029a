"""What every command says is an event: a kind and JSON fields (docs/cli.md). `Emit` takes one; a skin turns it into text or a JSON line."""

from __future__ import annotations

from typing import Any, Protocol

from ..contract.backend import Event, Log, Progress
from ..contract.errors import InputError, JobCancelled, Sam3dError, SetupError, WorkerStartError
from .output import META, Place

OK, FAILED, USAGE, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 130


class Emit(Protocol):
    def __call__(self, kind: str, /, **fields: Any) -> None: ...


def exit_code(problem: Sam3dError) -> int:
    """2: the input, 3: the environment, 130: interrupted, 1: all else."""
    if isinstance(problem, InputError):
        return USAGE
    if isinstance(problem, (SetupError, WorkerStartError)):
        return ENVIRONMENT
    return INTERRUPTED if isinstance(problem, JobCancelled) else FAILED


def error_event(problem: Sam3dError) -> dict[str, str]:
    """What an event, and a manifest line, carries of an error."""
    return {"code": problem.code, "message": problem.message, "hint": problem.hint}


def job_event(emit: Emit, name: str, event: Event) -> None:
    """A job's event as one of ours; pictures of the work so far are for hosts that can show them."""
    if isinstance(event, Progress):
        fields = {"stage": event.stage, "step": event.step, "total": event.total, "fraction": round(event.fraction, 4)}
        emit("progress", name=name, **fields, eta=None if event.eta is None else round(event.eta, 1))
    elif isinstance(event, Log):
        emit("log", name=name, level=event.level, text=event.text)


def done_fields(place: Place, meta: dict[str, Any], state: str, seconds: float) -> dict[str, Any]:
    """The event `done`. state: made, replaced, there or adopted."""
    return {
        "name": place.name,
        "state": state,
        "folder": str(place.folder),
        "files": [place.path(file).relative_to(place.folder).as_posix() for file in (*meta["files"], META)],
        "engine": str(meta.get("engine")),
        "seed": meta.get("seed"),
        "seconds": seconds,
        "warnings": list(meta.get("warnings", ())),
        "key": meta.get("key"),
    }
