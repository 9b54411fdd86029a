"""What the tests of the worker share: backends over the zoo, requests that pick an animal, and waiting without guessing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from comfyui_sam3d.client import LocalBackend
from comfyui_sam3d.contract import Cancelled, Done, Event, Failed, ReconstructRequest
from comfyui_sam3d.contract.errors import Sam3dError

ZOO = Path(__file__).with_name("worker.py")
LONG = 60.0  # seconds; how long a loaded machine may take for what is usually done at once


def backend(*habits: str, before: Sequence[str] = (), **options: Any) -> LocalBackend:
    """A backend over the zoo; `before` is a command that runs the worker's."""
    return LocalBackend([*before, sys.executable, str(ZOO), *habits], **options)


def ask(animal: str, seed: int = 0, *, size: tuple[int, int] = (6, 5), more: int = 0, **fields: Any) -> ReconstructRequest:
    """A request for this animal; size (H, W), `more` masks than one."""
    image = np.resize(np.arange(251, dtype=np.uint8), (*size, 3))
    names = (animal, *(f"other_{i}" for i in range(more)))
    return ReconstructRequest(image=image, masks=np.ones((1 + more, *size), bool), names=names, seed=seed, **fields)


def error_of(job: Any) -> Sam3dError:
    """The error of a job that must fail."""
    event = last(job)
    assert isinstance(event, Failed), event
    return event.error


def last(job: Any) -> Event:
    """The job's last event; it must come within LONG seconds."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        event = job.poll(0.5)
        if isinstance(event, (Done, Failed, Cancelled)):
            return event
    raise AssertionError("the job doesn't end")


def first(job: Any, kind: type) -> Any:
    """The job's next event of this kind."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        event = job.poll(0.5)
        if isinstance(event, kind):
            return event
        assert not isinstance(event, (Done, Failed, Cancelled)), event
    raise AssertionError(f"no {kind.__name__}")


def until(true: Callable[[], bool], seconds: float = LONG) -> float:
    """Wait for it; how long it took."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() < start + seconds, "it doesn't come true"
        time.sleep(0.01)
    return time.monotonic() - start


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie doesn't."""
    return _process_state(pid) not in "ZX"


def stopped(pid: int) -> bool:
    """Whether a process stands still by SIGSTOP."""
    return _process_state(pid) == "T"


def _process_state(pid: int) -> str:
    """The letter of /proc; X where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return stat.rpartition(")")[2].split()[0]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
