"""What can't be had from a misbehaving engine alone: faults put into the client's or the worker's own code, one at a time."""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.client import State
from comfyui_sam3d.client.group import ChildGroup
from comfyui_sam3d.contract import Done, Scene
from comfyui_sam3d.contract.errors import OutOfMemoryError, ProtocolError, WorkerCrashed, WorkerStartError, WorkerStateError
from comfyui_sam3d.tests.zoo.keeper import ask, backend, error_of, last, stopped, until
from comfyui_sam3d.worker.job import QuietJob, timed

PROCESS = "comfyui_sam3d.client.process"


def test_no_memory_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_frame(*_: object) -> None:
        raise MemoryError

    with backend() as zoo:
        monkeypatch.setattr(f"{PROCESS}.read_frame", read_frame)
        error = error_of(zoo.reconstruct(ask("tame")))
        assert type(error) is OutOfMemoryError and "on this side" in error.message


def test_an_output_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_frame(*_: object) -> None:
        raise OSError("a broken pipe, as Windows may say")

    monkeypatch.setattr(f"{PROCESS}.LINGER", 0.2)
    with backend("silent") as zoo:
        monkeypatch.setattr(f"{PROCESS}.read_frame", read_frame)
        error = error_of(zoo.reconstruct(ask("tame")))
        assert type(error) is ProtocolError and "as Windows may say" in error.message


def test_no_memory_for_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode_frame(*_: object) -> Iterator[memoryview]:
        yield memoryview(b"\x00")
        raise MemoryError

    with backend() as zoo:
        zoo.start()
        with monkeypatch.context() as patch:
            patch.setattr("comfyui_sam3d.client.local.encode_frame", encode_frame)
            error = error_of(zoo.reconstruct(ask("tame")))
        assert type(error) is OutOfMemoryError
        assert isinstance(last(zoo.reconstruct(ask("tame"))), Done)


def test_an_answer_that_breaks_off() -> None:
    with backend() as zoo:
        error = error_of(zoo.reconstruct(ask("breaks_off")))
        assert type(error) is WorkerCrashed and "exit code 4" in error.message and "no room for a copy" in error.message
        assert isinstance(last(zoo.reconstruct(ask("tame"))), Done)


def test_a_process_that_can_not_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver may hold it for ever: close() returns, and the next call has a new worker."""
    kept: list[Any] = []

    class Unkillable(ChildGroup):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            kept.append(self)

        def kill(self) -> None:
            pass

    monkeypatch.setattr(f"{PROCESS}.UNKILLABLE", 0.3)
    monkeypatch.setattr(f"{PROCESS}.DRAIN", 0.1)
    with backend() as zoo:
        with monkeypatch.context() as patch:
            patch.setattr(f"{PROCESS}.ChildGroup", Unkillable)
            job = zoo.reconstruct(ask("stops_itself"))
            job.poll(30)
            until(lambda: stopped(kept[0].pid))  # else close() might find it awake, and it would end properly
            patch.setattr("comfyui_sam3d.client.local.PATIENCE", 0.1)
            zoo.close()
            assert zoo.state is State.DEAD
        try:
            assert isinstance(last(zoo.reconstruct(ask("tame"))), Done)
        finally:
            os.kill(kept[0].pid, signal.SIGKILL)
            assert kept[0].reap() == -signal.SIGKILL


def test_a_forked_copy_of_a_backend_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with backend() as zoo:
        pid = zoo.start().pid
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 0)
            zoo.close()
            with pytest.raises(WorkerStateError, match="forked"):
                zoo.reconstruct(ask("tame"))
        assert zoo.start().pid == pid


@pytest.mark.parametrize("descriptor", ["9999", "nonsense"])
def test_a_lifeline_that_is_none(descriptor: str) -> None:
    with backend(before=["env", f"SAM3D_LIFELINE_FD={descriptor}"]) as zoo:
        assert isinstance(last(zoo.reconstruct(ask("tame"))), Done)


def test_a_lifeline_whose_client_is_gone_already() -> None:
    orphan = (
        "import os, sys; far, near = os.pipe(); os.set_inheritable(far, True); os.close(near);"
        "os.environ['SAM3D_LIFELINE_FD'] = str(far); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with backend(before=[sys.executable, "-c", orphan]) as zoo, pytest.raises(WorkerStartError, match="exit code 0"):
        zoo.start()


def test_an_engine_called_without_a_worker() -> None:
    job = QuietJob()
    job.plan({"a": 1})
    job.step("a", 0, 1)
    job.log("a line")
    job.preview(np.zeros((1, 1, 3), np.uint8))
    for _ in range(2):
        with timed(job, "a"):
            pass
    assert list(job.timings) == ["a"] and job.timings["a"] > 0


def test_an_unwatched_backend_is_closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What atexit calls."""
    from comfyui_sam3d.client import local

    zoo = backend()
    zoo.start()
    monkeypatch.setattr(local, "_open", {zoo})
    local._close_all()
    assert zoo.state is State.DEAD
    assert zoo.export(Scene(objects=(), engine="x"), []) == {}
    zoo.close()


def test_a_client_that_was_stopped_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred seconds pass in which this process ran nothing: whose silence was that?"""
    ahead = 0.0
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + ahead, sleep=time.sleep)
    monkeypatch.setattr(f"{PROCESS}.time", clock)
    with backend(silence=20) as zoo:
        pid = zoo.start().pid
        for _ in range(3):
            ahead += 100
            time.sleep(0.4)
        assert zoo.reconstruct(ask("tame")).result().parameters["pid"] == pid


def test_a_dead_worker_is_no_worker_before_the_watch_has_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    with backend() as zoo:
        pid = zoo.start().pid
        monkeypatch.setattr(f"{PROCESS}.TICK", 2.0)
        time.sleep(0.3)  # now the watch sleeps for two seconds
        os.kill(pid, signal.SIGKILL)
        until(lambda: zoo.state is not State.READY)
        assert zoo.state is State.STOPPING
        monkeypatch.undo()
        assert zoo.reconstruct(ask("tame")).result().parameters["pid"] != pid
