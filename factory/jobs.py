"""Watching one job while somebody may press Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..contract.backend import Cancelled, Done, Event, Failed, Reconstruction
from ..contract.errors import JobCancelled
from ..contract.scene import Scene

TICK = 0.1  # seconds between two looks at the stop flag


class Interrupts:
    """Counts requests to stop instead of raising KeyboardInterrupt anywhere: Ctrl-C counts one, SIGTERM two. A context manager, main thread only.

    From the third on KeyboardInterrupt is raised after all: whatever hangs, the user gets out.
    """

    def __init__(self) -> None:
        self.count = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number, amount in ((signal.SIGINT, 1), (signal.SIGTERM, 2)):
            self._old[number] = signal.signal(number, self._handler(amount))
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _handler(self, amount: int) -> Callable[[int, FrameType | None], None]:
        def handle(_number: int, _frame: FrameType | None) -> None:
            self.count += amount
            if self.count > 3:
                raise KeyboardInterrupt

        return handle


def watch(job: Reconstruction, on_event: Callable[[Event], None], stop: Callable[[], bool]) -> Scene:
    """The job's scene. Hands on every Progress, Log and Preview; cancels the job once `stop()` is true.

    Raises the job's Sam3dError, or JobCancelled.
    """
    cancelled = False
    while True:
        event = job.poll(TICK)
        if not cancelled and stop():
            cancelled = True
            job.cancel()
        if isinstance(event, Done):
            return event.scene
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Cancelled):
            raise JobCancelled("The job was cancelled.")
        if event is not None:
            on_event(event)
