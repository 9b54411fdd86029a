"""What the worker and its client hold: arrays once and not longer than needed, and after many jobs no more than after a few."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from comfyui_sam3d.client import LocalBackend
from comfyui_sam3d.contract import Cancelled, Failed
from comfyui_sam3d.tests.zoo.keeper import ask, backend, descriptors, last, until
from comfyui_sam3d.tests.zoo.worker import rss

HEAVY = Path(__file__).parent / "zoo" / "heavy.py"
MB = 1 << 20


@pytest.mark.parametrize("megabytes", [64, pytest.param(1024, marks=pytest.mark.full)])
def test_arrays_are_held_once(megabytes: int) -> None:
    """Requests and answers of this size, on both sides: the arrays themselves and nothing like a second copy."""
    done = subprocess.run([sys.executable, str(HEAVY), str(megabytes)], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    size = figures["bytes"]
    assert size > 0.9 * megabytes * MB
    for side in ("client", "worker"):
        held = figures[side]
        assert held["request"] - held["before"] < 1.2 * size + 8 * MB, side
        assert held["end"] - held["before"] < 1.2 * size + 8 * MB, side
        assert held["end"] < 1.5 * 1024 * MB, side
    assert figures["worker"]["rss"] - figures["worker"]["before"] < 0.2 * size + 8 * MB, "nothing is held between jobs"
    if megabytes == 1024:  # the issue's own figure; smaller ones stand in benchmarks/
        assert sorted(figures["seconds"])[3] < 5, figures["seconds"]  # the median: a virtual machine gets its memory at first touch


def held(zoo: LocalBackend, others: set[threading.Thread]) -> dict[str, tuple[int, int, int]]:
    """others: threads that earlier tests have left, and that end when they like."""
    parameters = zoo.reconstruct(ask("counts")).result().parameters
    gc.collect()
    return {
        "worker": (parameters["rss"], parameters["fds"], parameters["threads"]),
        "client": (rss(), descriptors(), len(set(threading.enumerate()) - others)),
    }


def assert_no_growth(before: dict[str, tuple[int, int, int]], after: dict[str, tuple[int, int, int]]) -> None:
    for side in before:
        assert after[side][1:] == before[side][1:], (side, "descriptors, threads")
        assert after[side][0] - before[side][0] < 4 * MB, (side, "memory")


def test_200_jobs_in_a_row() -> None:
    """Each with a picture and an answer of 1 MB, some failed, some cancelled: held memory would be 200 MB."""
    others = set(threading.enumerate())
    with backend() as zoo:
        before: dict[str, tuple[int, int, int]] = {}
        for i in range(220):
            if i == 20:
                before = held(zoo, others)
            if i % 10 == 3:
                assert isinstance(last(zoo.reconstruct(ask("raises", i % 5, size=(512, 512)))), Failed)
            elif i % 10 == 7:
                job = zoo.reconstruct(ask("steps", 1000, size=(512, 512)))
                job.cancel()
                assert isinstance(last(job), Cancelled)
            else:
                assert len(zoo.reconstruct(ask("answers", MB, size=(512, 512))).result().parameters["big"]) == MB
        assert_no_growth(before, held(zoo, others))


@pytest.mark.parametrize("lives", [6, pytest.param(60, marks=pytest.mark.full)])
def test_many_lives(lives: int) -> None:
    """Workers that are closed, and workers that die, leave neither descriptors nor threads nor zombies."""
    zoo = backend()
    others = set(threading.enumerate())
    before: tuple[int, int] | None = None
    for i in range(lives):
        pid = zoo.start().pid
        if i % 3 == 2:
            assert isinstance(last(zoo.reconstruct(ask("aborts"))), Failed)
        else:
            zoo.reconstruct(ask("tame")).result()
            zoo.close()
        until(lambda: set(threading.enumerate()) <= others)
        assert not Path(f"/proc/{pid}").exists(), "not even as a zombie"
        gc.collect()
        now = (descriptors(), len(set(threading.enumerate()) - others))
        before = before or now
        assert now == before


def test_one_event_for_each_of_many_jobs_submitted_at_once_after_another() -> None:
    """Whoever reads the last event may submit the next job at once."""
    with backend() as zoo:
        for i in range(30):
            job = zoo.reconstruct(ask("tame", i))
            while not job.finished:
                pass
            assert zoo.reconstruct(ask("tame", i + 1)).result().seed == i + 1
