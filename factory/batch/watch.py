"""--watch: looks at the source again and again, and hands out what is new and complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from ...contract.errors import PairingError
from ..events import Emit
from .plan import BatchOptions, Identity, Item, is_bare, make_plan

Signature = tuple[tuple[int, int], ...]  # (size, time of last change in ns) of each of an item's files


class Watcher:
    """A file counts as complete when its size and time are the same in two looks in a row. What changes later is handed out again.

    names: the names that are given already (Ledger.names).
    """

    def __init__(self, options: BatchOptions, names: Callable[[], Mapping[Identity, str]]) -> None:
        self._options = replace(options, limit=None)
        self._limit = options.limit
        self._names = names
        self._given: dict[Identity, str] = {}
        self._seen: dict[Identity, Signature] = {}
        self._handed: dict[Identity, Signature] = {}
        self._busy: set[str] = set()
        self._count = 0
        self._said: set[str] = set()

    @property
    def full(self) -> bool:
        """--limit is reached."""
        return self._limit is not None and self._count >= self._limit

    def finished(self, name: str | None) -> None:
        """The item of this name is no longer under way."""
        self._busy.discard(name or "")

    def look(self, emit: Emit) -> list[Item]:
        """The items that became complete since the last look."""
        try:
            items = make_plan(self._options, {**self._names(), **self._given})
        except PairingError as problem:  # e.g. a table that is just being written
            self._say(emit, None, str(problem))
            return []
        ready, seen = [], {}
        for item in items:
            signature = _signature(item)
            if signature is None or self.full:
                continue
            seen[item.identity] = signature
            if signature != self._seen.get(item.identity) or signature == self._handed.get(item.identity) or item.name in self._busy:
                continue
            if is_bare(item.pair):  # its mask may be on the way
                self._say(emit, item.identity[0], "no mask yet")
                continue
            self._handed[item.identity] = signature
            self._given[item.identity] = item.name
            self._busy.add(item.name)
            self._count += 1
            ready.append(item)
        self._seen = seen
        return ready

    def _say(self, emit: Emit, name: str | None, text: str) -> None:
        if (said := f"{name}: {text}") not in self._said:
            self._said.add(said)
            emit("waiting", name=name, text=text)


def _signature(item: Item) -> Signature | None:
    """None where a file is gone again, or still empty."""
    try:
        stats = [os.stat(path) for path in item.images]
    except OSError:
        return None
    further = [path.stat() for path in item.further.values() if path.exists()]
    return tuple((s.st_size, s.st_mtime_ns) for s in (*stats, *further)) if all(s.st_size for s in stats) else None
