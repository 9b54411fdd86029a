"""How long stages took on this machine: what a time estimate is made of.

A rate is seconds for a unit of a stage's work, and belongs to a key: what did the work, and the stage. The first time of a stage in a process (weights are read,
kernels compiled) has a key of its own. The last few rates of each key are kept in `times.json` in the cache's folder, written aside and renamed; a file that
can't be understood counts as none.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FILE = "times.json"
SCHEMA = 1
RATES, KEYS = 8, 200  # kept for a key; of keys, those that were added to last
MOST_BYTES = 1 << 20
FIRST = " (first)"


class History:
    """Of the machine, in `folder`; None: of this process alone. Whatever goes wrong with the disk costs the estimate, nothing else."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = None if folder is None else folder / FILE
        self._rates = self._read()
        self._seen: set[str] = set()  # keys whose stage has run in this process

    def rate(self, key: str) -> float | None:
        """Seconds for a unit, as the next run of the stage may take; None: nothing is known."""
        usual, other = (key, key + FIRST) if key in self._seen else (key + FIRST, key)
        found = self._rates.get(usual) or self._rates.get(other)
        return statistics.median(found) if found else None

    def took(self, key: str) -> str:
        """The name under which a run of the stage that has just ended is to be added."""
        name = key if key in self._seen else key + FIRST
        self._seen.add(key)
        return name

    def add(self, rates: Iterable[tuple[str, float]]) -> None:
        """Keep these (name from `took`, seconds for a unit), after what other processes have added meanwhile."""
        rates = [(name, float(rate)) for name, rate in rates if math.isfinite(rate) and rate > 0]
        if not rates:
            return
        known = self._read() or self._rates
        for name, rate in rates:
            known[name] = [*known.pop(name, []), rate][-RATES:]  # popped: the keys' order is that of their last use
        self._rates = dict(list(known.items())[-KEYS:])
        self._write()

    def _read(self) -> dict[str, list[float]]:
        if self.path is None:
            return {}
        try:
            if self.path.stat().st_size > MOST_BYTES:
                return {}
            return _checked(json.loads(self.path.read_bytes()))
        except (OSError, ValueError, RecursionError):
            return {}

    def _write(self) -> None:
        if self.path is None:
            return
        aside = self.path.with_name(f".times-{secrets.token_hex(8)}.tmp")  # a leftover goes as the cache's own do
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps({"schema": SCHEMA, "rates": self._rates}), encoding="utf-8")
            os.replace(aside, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()


def _checked(found: Any) -> dict[str, list[float]]:
    """What fits of a file's content."""
    rates = found.get("rates") if isinstance(found, dict) and found.get("schema") == SCHEMA else None
    if not isinstance(rates, dict):
        return {}
    return {
        name: [float(rate) for rate in values[-RATES:]]
        for name, values in list(rates.items())[-KEYS:]
        if isinstance(values, list) and values and all(_is_rate(rate) for rate in values)
    }


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
