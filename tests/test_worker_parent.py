"""The worker doesn't outlive its client, however that ends: killed, interrupted, left without a word; and a forked copy is no client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from comfyui_sam3d.tests.zoo.keeper import LONG, alive, until

PARENT = Path(__file__).parent / "zoo" / "parent.py"
GONE = 10.0  # seconds within which the worker must be gone (the figure)


@contextmanager
def parent(way: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that hosts a worker, and the worker's id."""
    host = subprocess.Popen(
        [sys.executable, str(PARENT), way], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = threading.Timer(2 * LONG, os.killpg, (host.pid, signal.SIGKILL))  # so that nobody waits for a line for ever
    end.start()
    with host:
        try:
            yield host, int(said(host))
        finally:
            end.cancel()
            if host.poll() is None:
                os.killpg(host.pid, signal.SIGKILL)


def said(host: subprocess.Popen[str]) -> str:
    assert host.stdout is not None
    line = host.stdout.readline()
    assert line, host.communicate()[1]
    return line.strip()


@pytest.mark.parametrize("way", ["idle", "busy", "locked", "bare-idle", "bare-busy"])
def test_parent_killed(way: str) -> None:
    with parent(way) as (host, worker):
        if "idle" not in way:
            assert said(host) == "busy"
        assert alive(worker)
        host.kill()
        host.wait(LONG)
        until(lambda: not alive(worker), GONE)


def test_parent_killed_and_its_forked_copy_lives() -> None:
    with parent("forked") as (host, worker):
        lines = [said(host), said(host)]
        assert "still works" in lines, lines
        lines.remove("still works")
        copy = int(lines.pop())
        host.kill()
        host.wait(LONG)
        try:
            until(lambda: not alive(worker), GONE)
            assert alive(copy)
        finally:
            os.kill(copy, signal.SIGKILL)


def test_parent_killed_and_the_workers_children_go_too() -> None:
    with parent("child") as (host, worker):
        child = int(said(host))
        assert alive(child)
        host.kill()
        host.wait(LONG)
        until(lambda: not alive(worker) and not alive(child), GONE)


def test_parent_that_leaves_without_a_word() -> None:
    with parent("leaves") as (host, worker):
        assert said(host) == "leaving"
        assert host.wait(LONG) == 0
        assert not alive(worker), "closed at the interpreter's end"
        assert host.communicate()[1] == ""


def test_parent_that_stood_still() -> None:
    """A suspended machine, a debugger: longer than the silence that a worker is granted."""
    with parent("stopped") as (host, worker):
        assert said(host) == "stop me"
        os.kill(host.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(host.pid, signal.SIGCONT)
        assert int(said(host)) == worker, "the same worker has answered"
        assert host.wait(LONG) == 0


def test_interrupt_reaches_the_client_alone() -> None:
    with parent("interrupted") as (host, worker):
        assert said(host) == "interrupt me"
        os.killpg(host.pid, signal.SIGINT)
        assert said(host) == f"{{}} {worker}", "the worker has noticed nothing"
        assert host.wait(LONG) == 0
        until(lambda: not alive(worker), GONE)
