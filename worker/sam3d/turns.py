"""Whose turn it is on the device: threads work beside one another as long as its memory lasts for all of them, then one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """alone: one step at a time; set by whoever runs out of memory, never taken back. freed: how often memory was freed since."""

    def __init__(self, *, alone: bool = True) -> None:
        self.alone, self.freed = alone, 0
        self._changed = threading.Condition()
        self._inside: set[int] = set()  # threads that are in a step

    @contextmanager
    def step(self) -> Iterator[None]:
        """A piece of work that takes memory of the device. Waits until nobody else is in one, where `alone`. A step within a step is part of it."""
        own = threading.get_ident()
        if own in self._inside:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not (self.alone and self._inside))
            self._inside.add(own)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(own)
                self._changed.notify_all()
