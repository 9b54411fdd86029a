"""Where a job stands: how much of it is done, and how many seconds are left.

The job's stages are planned as a row, in which a name may stand several times (each object is cleaned, then textured). A step belongs to the first place of its
name that isn't behind it; places that are passed over were not needed, unless their step comes yet and there is no other place for it. With what earlier jobs
took (history.py) for every stage to come, the places are as long as their seconds, and what is left is the rest of this stage and all later ones; else the shares
that the engine gave decide, and what is left follows from the time so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..contract.backend import Progress
from .history import History
from .job import Planned

EARLY = 0.05  # the fraction up to which the time so far says nothing


@dataclass
class _Place:
    """A stage's place in the row. seconds: what it may take, None: unknown. spent: what it took until now. done: the part of it that is done, 0..1."""

    stage: str
    key: str
    size: float
    seconds: float | None
    start: float
    end: float
    spent: float = 0.0
    done: float = 0.0
    planned: bool = True


class Course:
    """The course of one job. history: opened when a plan first tells sizes. last: what follows the engine's stages, with its share of their sum."""

    def __init__(self, history: Callable[[], History], last: Planned | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._open, self._last, self._clock = history, last, clock
        self._history: History | None = None
        self._row: list[_Place] = []
        self._at = -1  # the place that is being worked on
        self._fraction = 0.0
        self._started = self._moment = clock()
        self._rates: list[tuple[str, float]] = []

    def plan(self, stages: Iterable[Planned], where: str = "") -> None:
        """The stages to come. Called again, it divides what is left."""
        self._leave()
        wanted = [item for item in stages if item.share > 0]
        if self._last is not None:
            whole = sum(item.share for item in wanted)
            wanted.append(Planned(self._last.stage, whole * self._last.share or 1.0, self._last.size, self._last.key))
        if where and self._history is None:
            self._history = self._open()
        keys = [f"{where} {item.key or item.stage}" if where and item.size > 0 else "" for item in wanted]
        seconds = [self._expected(key, item.size) for key, item in zip(keys, wanted)]
        lengths = [item.share if any(s is None for s in seconds) else max(s or 0.0, 1e-6) for item, s in zip(wanted, seconds)]
        at, scale = self._fraction, (1 - self._fraction) / max(sum(lengths), 1e-12)
        self._row, self._at = [], -1
        for item, key, expected, length in zip(wanted, keys, seconds, lengths):
            self._row.append(_Place(item.stage, key, item.size, expected, at, at := at + length * scale))

    def step(self, stage: str, step: int, total: int) -> Progress:
        """`step` of `total` of `stage` is done; 0: it begins."""
        self._tick()
        total = max(total, 0)
        step = min(max(step, 0), total)
        place = self._find(stage)
        place.done = step / total if total else 0.0
        self._fraction = min(max(self._fraction, place.start + (place.end - place.start) * place.done), 1.0)
        return Progress(stage, step, total, self._fraction, self._left(place))

    def finish(self) -> None:
        """The job has succeeded: its times are kept."""
        self._leave()
        if self._history is not None:
            self._history.add(self._rates)
        self._rates = []

    # -- time

    def _tick(self) -> None:
        """The time since the last step belongs to the place that was worked on."""
        now = self._clock()
        if self._at >= 0:
            self._row[self._at].spent += now - self._moment
        self._moment = now

    def _leave(self) -> None:
        """The place that was worked on is done with."""
        self._tick()
        if self._at >= 0 and (place := self._row[self._at]).key and place.spent > 0 and self._history is not None:
            self._rates.append((self._history.took(place.key), place.spent / place.size))
        self._at = -1

    def _expected(self, key: str, size: float) -> float | None:
        rate = self._history.rate(key) if key and self._history is not None else None
        return None if rate is None else rate * size

    def _left(self, place: _Place) -> float | None:
        """Seconds to the job's end."""
        later = [item.seconds for item in self._row[self._at + 1 :]]
        if place.seconds is None or any(seconds is None for seconds in later):
            spent = self._moment - self._started
            return spent * (1 - self._fraction) / self._fraction if self._fraction > EARLY else None
        # The further a stage is, the more its own pace counts.
        todo = 1 - place.done
        rest = todo * (todo * place.seconds + place.spent) if place.done else max(place.seconds - place.spent, 0.0)
        return rest + sum(seconds or 0.0 for seconds in later)

    # -- places

    def _find(self, stage: str) -> _Place:
        """The stage's place, which is worked on from now on."""
        current = self._row[self._at] if self._at >= 0 else None
        if current is not None and current.stage == stage and current.done < 1:
            return current
        ahead = next((i for i in range(self._at + 1, len(self._row)) if self._row[i].stage == stage), None)
        if ahead is None:
            behind = next((i for i in range(self._at, -1, -1) if self._row[i].stage == stage), None)
            if behind is not None:
                # Passed over, and needed after all: what has begun before it goes on later.
                if self._row[behind].done == self._row[behind].spent == 0:
                    self._at = behind
                return self._row[behind]  # else once more, and not planned: its time is the current place's
            ahead = self._insert(stage)
        at = ahead
        self._leave()
        self._at = at
        return self._row[at]

    def _insert(self, stage: str) -> int:
        """An unplanned stage takes half of what is left: the bar never falls, and never lies about the end."""
        is_last = self._last is not None and stage == self._last.stage
        self._row.insert(self._at + 1, _Place(stage, "", 0.0, None, self._fraction, 1.0 if is_last else (1 + self._fraction) / 2))
        return self._at + 1
