"""A job across a transport that carries bytes: the request is one frame of docs/protocol.md, and so is each event on the way back.

Whatever serialises for Ray or Modal sees bytes alone, and both sides check what they read as the worker's own wire does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...client import LocalBackend
from ...contract import messages
from ...contract.backend import Backend, Cancelled, Done, Event, Failed, Log, Progress
from ...contract.errors import ProtocolError, Sam3dError
from ...contract.frames import encode_frame, read_frame
from ...contract.record import Record
from ...contract.request import ReconstructRequest

_REQUEST = {messages.Reconstruct.__name__: messages.Reconstruct}


class Relay:
    """The far side: one worker, kept between jobs. It is what a Ray actor is made of, and what a Modal container holds."""

    def __init__(self, backend: Backend | None = None) -> None:
        self._backend = backend if backend is not None else LocalBackend()
        self._refused: Sam3dError | None = None

    def warm(self, engine: str = "auto") -> str:
        """Make something tiny, so that the worker is there and its engine loaded before the first job; returns the engine's name. Raises a Sam3dError."""
        rows, columns = np.mgrid[:64, :64] - 31.5
        disc = rows**2 + columns**2 < 24**2
        pixels = np.where(disc[..., None], (200, 120, 60), 255).astype(np.uint8)
        request = ReconstructRequest(image=pixels, masks=disc[None], engine=engine, quality="fast", outputs=())  # type: ignore[arg-type]
        return self._backend.reconstruct(request).result().engine

    def refuse(self, problem: Sam3dError) -> None:
        """From now on every job fails with this."""
        self._refused = problem

    def check(self) -> None:
        """Raises what `refuse` was given."""
        if self._refused is not None:
            raise self._refused

    def run(self, frame: bytes) -> Iterator[bytes]:
        """A request's frame -> the frames of its events, as they come; the last is the answer. Never raises for a job that fails.

        Whoever stops listening cancels the job.
        """
        number = 0
        try:
            message = _message(frame, _REQUEST)
            number = message.job
            self.check()
            job = self._backend.reconstruct(message.request)
        except Sam3dError as problem:
            yield _frame(messages.JobFailed(number, problem.to_json()))
            return
        try:
            for event in job:
                if (answer := _of_event(number, event)) is not None:
                    yield answer
        finally:
            job.cancel()  # nothing where it has ended

    def answer(self, frame: bytes) -> bytes:
        """`run` for a transport that carries the answer alone."""
        *_, last = self.run(frame)
        return last

    def close(self) -> None:
        self._backend.close()


def request_frame(number: int, request: ReconstructRequest) -> bytes:
    """The near side: a request. number: the answers carry it."""
    return _frame(messages.Reconstruct(number, request))


def read_event(frame: bytes) -> tuple[int, Event]:
    """The near side: a job's number, and what happened to it. Raises ProtocolError."""
    message = _message(frame, messages.FROM_WORKER)
    number = getattr(message, "job", None)
    if not isinstance(number, int):
        raise ProtocolError(f"A {type(message).__name__} is no answer to a job.")
    if isinstance(message, messages.JobDone):
        return number, Done(message.scene)
    if isinstance(message, messages.JobFailed):
        return number, Failed(Sam3dError.from_json(dict(message.error)))
    if isinstance(message, messages.JobStopped):
        return number, Cancelled()
    if isinstance(message, messages.JobProgress):
        return number, message.progress
    if isinstance(message, messages.JobLog):
        return number, message.log
    raise ProtocolError(f"A {type(message).__name__} is no answer to a job.")


def _of_event(number: int, event: Event) -> bytes | None:
    """Previews stay where they are: nobody looks at them in a batch."""
    if isinstance(event, Progress):
        return _frame(messages.JobProgress(number, event))
    if isinstance(event, Log):
        return _frame(messages.JobLog(number, event))
    if isinstance(event, Done):
        return _frame(messages.JobDone(number, event.scene))
    if isinstance(event, Failed):
        return _frame(messages.JobFailed(number, event.error.to_json()))
    return _frame(messages.JobStopped(number)) if isinstance(event, Cancelled) else None


def _frame(message: Record) -> bytes:
    return b"".join(encode_frame(*messages.to_wire(message)))


def _message(frame: bytes, known: Mapping[str, type[Record]]) -> Any:
    source, position = memoryview(frame), 0

    def read_into(view: memoryview) -> int:
        nonlocal position
        part = source[position : position + len(view)]
        view[: len(part)] = part
        position += len(part)
        return len(part)

    found = read_frame(read_into)
    if found is None or position != len(source):
        raise ProtocolError("An answer must be exactly one frame.")
    return messages.from_wire(*found, known)
