"""Room in memory, shared out before it is used: pictures and results are large, and those who handle them at once must fit together."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import asynccontextmanager, contextmanager

TICK = 0.1  # seconds between two looks of a thread whether it should still wait


class Room:
    """`size` bytes, first come first served; who wants more than all of it gets all of it, alone. Calls on an event loop wait without a thread: those are few,
    and other calls need them."""

    def __init__(self, size: int) -> None:
        self.size = self._free = size
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def take(self, need: int, look: Callable[[], None] = lambda: None) -> Iterator[None]:
        """On a thread. look: called again and again while it waits; what it raises ends that."""
        need = min(need, self.size)
        place = self._ask(need)
        try:
            while not place.done():
                try:
                    place.result(TICK)
                except NotYet:
                    look()
            yield
        finally:
            self._leave(need, place)

    @asynccontextmanager
    async def taking(self, need: int) -> AsyncIterator[None]:
        """On an event loop."""
        need = min(need, self.size)
        place = self._ask(need)
        try:
            await asyncio.wrap_future(place)
            yield
        finally:
            self._leave(need, place)

    def _ask(self, need: int) -> Future[None]:
        place: Future[None] = Future()
        with self._lock:
            self._waiting.append((need, place))
        self._serve()
        return place

    def _leave(self, need: int, place: Future[None]) -> None:
        """Also by those whose turn never came."""
        if not place.cancel():
            with self._lock:
                self._free += need
        self._serve()

    def _serve(self) -> None:
        with self._lock:
            come = []
            while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._free):
                need, place = self._waiting.popleft()
                if place.set_running_or_notify_cancel():  # from now on it can't be cancelled
                    self._free -= need
                    come.append(place)
        for place in come:
            place.set_result(None)
