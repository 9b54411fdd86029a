"""A job under way: the queue of its events between the backend, which fills it, and whoever watches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ..contract.backend import Cancelled, Done, Event, Failed
from ..contract.errors import JobCancelled
from ..contract.scene import Scene

EVENTS_KEPT = 256  # of a job that nobody watches, the latest ones


class LocalJob:
    """A job of a LocalBackend; see contract.backend.Reconstruction. Every method may be called from any thread.

    Each event goes to one watcher, the last one to all.
    """

    def __init__(self, number: int, cancel: Callable[[LocalJob], None]) -> None:
        self.number = number
        self.files: Mapping[str, np.ndarray] = {}  # of an export, with Done
        self.sent = False  # its message is on the way to the worker; guarded by the backend's lock
        self._ask_backend = cancel
        self._changed = threading.Condition()
        self._waiting: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._finished = False  # the last event was put
        self._last: Event | None = None  # the last event was taken

    def __iter__(self) -> Iterator[Event]:
        while self._last is None:
            event = self.poll(1.0)  # bounded: on Windows nothing, not even Ctrl-C, ends an unbounded wait
            if event is not None:
                yield event

    def poll(self, timeout: float) -> Event | None:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._waiting and self._last is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            if self._last is not None:
                return self._last
            event = self._waiting.popleft()
            if isinstance(event, (Done, Failed, Cancelled)):
                self._last = event
                self._changed.notify_all()
            return event

    def cancel(self) -> None:
        if not self._finished:
            self._ask_backend(self)

    def result(self) -> Scene:
        for _ in self:
            pass
        if isinstance(self._last, Done):
            return self._last.scene
        if isinstance(self._last, Failed):
            raise self._last.error
        raise JobCancelled("The job was cancelled.")

    @property
    def finished(self) -> bool:
        """Whether the last event is there, taken or not."""
        return self._finished

    def put(self, event: Event) -> None:
        """From the backend: one more event. After the last one nothing counts any more."""
        with self._changed:
            if self._finished:
                return
            self._finished = isinstance(event, (Done, Failed, Cancelled))
            self._waiting.append(event)
            self._changed.notify_all()
