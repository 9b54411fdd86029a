"""Workers that die, hang, break the stream or never come up: one clear error each, and the next call works."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui_sam3d.client import LocalBackend, State
from comfyui_sam3d.contract import Done, Log, Progress
from comfyui_sam3d.contract.errors import ProtocolError, WorkerCrashed, WorkerHung, WorkerStartError
from comfyui_sam3d.contract.version import PROTOCOL
from comfyui_sam3d.tests.zoo.keeper import LONG, alive, ask, backend, error_of, first, last, until


@pytest.fixture(scope="module")
def zoo() -> Iterator[LocalBackend]:
    """One backend for the whole file: each test leaves it without a worker, or with a fresh one."""
    with backend() as shared:
        yield shared


def survives(zoo: LocalBackend) -> None:
    assert zoo.reconstruct(ask("tame", 5)).result().seed == 5


def test_sigkill_in_mid_job(zoo: LocalBackend) -> None:
    first_pid = zoo.start().pid
    error = error_of(zoo.reconstruct(ask("kills_itself", signal.SIGKILL)))
    assert type(error) is WorkerCrashed
    assert "SIGKILL" in error.message and "out of memory" in error.message and "my last words" in error.message
    assert "my last words" in error.detail and "fresh worker" in error.hint
    assert zoo.state is State.DEAD and zoo.worker_pid is None and not alive(first_pid)
    survives(zoo)
    assert zoo.start().pid != first_pid


@pytest.mark.parametrize(
    ("animal", "seed", "words"),
    [
        ("segfaults", 0, "killed by SIGSEGV (a native library crashed)"),
        ("aborts", 0, "killed by SIGABRT"),
        ("kills_itself", int(signal.SIGTERM), "killed by SIGTERM (somebody asked it to stop)"),
        ("kills_itself", int(signal.SIGRTMIN) + 1, "killed by signal 35"),
        ("quits", 7, "exit code 7; its last words: about to leave"),
        ("quits", 0, "exit code 0"),
    ],
)
def test_sudden_death(zoo: LocalBackend, animal: str, seed: int, words: str) -> None:
    error = error_of(zoo.reconstruct(ask(animal, seed)))
    assert type(error) is WorkerCrashed and words in error.message
    assert "Fatal Python error" in error.message or animal not in ("segfaults", "aborts")
    survives(zoo)


def test_what_a_worker_said_before_it_died_counts(zoo: LocalBackend) -> None:
    for _ in range(3):
        scene = zoo.reconstruct(ask("answers_and_dies", 8 << 20)).result()
        assert len(scene.parameters["big"]) == 8 << 20
        until(lambda: zoo.state is not State.READY)


def test_a_worker_killed_between_two_jobs(zoo: LocalBackend) -> None:
    for _ in range(3):
        os.kill(zoo.start().pid, signal.SIGKILL)
        until(lambda: zoo.state is not State.READY)
        survives(zoo)


def test_a_flood_on_stderr_is_cut(zoo: LocalBackend) -> None:
    error = error_of(zoo.reconstruct(ask("floods_stderr", 100)))
    assert type(error) is WorkerCrashed and "SIGABRT" in error.message
    assert len(error.message) < 1000 and len(error.detail) < 20_000
    survives(zoo)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits for what never comes."""
    monkeypatch.setattr("comfyui_sam3d.client.process.LINGER", 0.3)
    monkeypatch.setattr("comfyui_sam3d.client.process.DRAIN", 0.2)
    monkeypatch.setattr("comfyui_sam3d.client.local.PATIENCE", 0.2)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_child_that_outlives_the_worker(zoo: LocalBackend, seed: int) -> None:
    """It holds the worker's stderr. In the worker's group it is killed; in a session of its own it lives on, and nobody waits for it."""
    job = zoo.reconstruct(ask("leaves_a_child", seed))
    child = int(first(job, Log).text.split()[1])
    try:
        last(job)
        zoo.close()
        if seed % 2 == 1:
            assert alive(child)
        else:
            until(lambda: not alive(child), 10)
        survives(zoo)
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)


@pytest.mark.usefixtures("hasty")
def test_a_forked_copy_that_holds_the_stream(zoo: LocalBackend) -> None:
    job = zoo.reconstruct(ask("forks"))
    child = int(first(job, Log).text.split()[1])
    try:
        assert "SIGABRT" in error_of(job).message
        survives(zoo)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("seed", [0, 2, 5, 9, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 3, 4, 6, 7, 8))])
def test_garbage_in_the_stream(zoo: LocalBackend, seed: int) -> None:
    error = error_of(zoo.reconstruct(ask("writes_garbage", seed)))
    assert type(error) is ProtocolError
    assert ("Welcome" in error.message) == (seed == 0)
    survives(zoo)


def test_a_stream_that_breaks_off_with_its_process_is_a_crash(zoo: LocalBackend) -> None:
    error = error_of(zoo.reconstruct(ask("dies_in_a_frame")))
    assert type(error) is WorkerCrashed and "SIGKILL" in error.message
    survives(zoo)


@pytest.mark.usefixtures("hasty")
def test_a_worker_that_closes_its_stdout(zoo: LocalBackend) -> None:
    """Its heart notices that nobody can be told, and it ends; an answer can't come any more."""
    error = error_of(zoo.reconstruct(ask("closes_stdout")))
    assert type(error) in (WorkerCrashed, ProtocolError)
    survives(zoo)


@pytest.mark.usefixtures("hasty")
def test_a_worker_that_closes_its_stdin_and_lives_on() -> None:
    with backend("deaf") as zoo:
        error = error_of(zoo.reconstruct(ask("tame", size=(700, 700))))
        assert type(error) is ProtocolError and "closed its input" in error.message
        assert zoo.state is State.DEAD


def test_a_worker_that_dies_while_it_receives() -> None:
    with backend("reads-half") as zoo:
        error = error_of(zoo.reconstruct(ask("tame", size=(2000, 2000))))
        assert type(error) is WorkerCrashed and "exit code 9; its last words: I have read enough" in error.message


def test_a_request_that_the_worker_has_no_memory_for() -> None:
    limit = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (150 << 20, 150 << 20)); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with backend(before=[sys.executable, "-c", limit]) as zoo:
        survives(zoo)
        error = error_of(zoo.reconstruct(ask("tame", size=(6_000, 6_000))))
        assert type(error) is WorkerCrashed and "exit code 3" in error.message and "can't be read" in error.message
        survives(zoo)


# -- hangs


def test_workers_that_hang_are_killed() -> None:
    """One stands still, one holds the interpreter lock, and one holds it under a client that would wait much longer: that one ends itself."""
    believer = ["env", "SAM3D_WORKER_SILENCE=2"]
    with backend(silence=2) as still, backend(silence=2) as locked, backend(silence=LONG, before=believer) as patient:
        jobs = [still.reconstruct(ask("stops_itself")), *(zoo.reconstruct(ask("holds_the_lock", 60)) for zoo in (locked, patient))]
        errors = [error_of(job) for job in jobs]
        assert [type(error) for error in errors] == [WorkerHung] * 3
        assert "no sign of life for 2 s" in errors[0].message
        assert "held the interpreter lock" in errors[2].message and "holds_the_lock" in errors[2].detail, "where it hung"
        survives(still)


def test_a_long_silence_within_the_limit_is_none() -> None:
    with backend(silence=30) as zoo:
        job = zoo.reconstruct(ask("holds_the_lock", 1))
        assert isinstance(last(job), Done)


# -- bad starts


@pytest.mark.parametrize(
    ("habit", "kind", "words"),
    [
        ("dies", WorkerStartError, "before it was ready: exit code 7; its last words: no module named nonsense"),
        ("silent", WorkerStartError, "didn't answer within 0.3 s"),
        ("old", ProtocolError, rf"speaks protocol {PROTOCOL + 1}, this side speaks {PROTOCOL}"),
        ("rude", ProtocolError, "first message is Beat, not Hello"),
        ("banner", ProtocolError, "something else prints into the stream"),
    ],
)
def test_a_bad_start(habit: str, kind: type, words: str) -> None:
    with backend(habit, start_timeout=0.3 if habit == "silent" else LONG) as zoo:
        error = error_of(zoo.reconstruct(ask("tame")))
        assert type(error) is kind and re.search(words, error.message)
        assert zoo.state is State.DEAD


def test_start_tells_why_there_is_no_worker() -> None:
    with backend("dies") as zoo, pytest.raises(WorkerStartError, match="no module named nonsense"):
        zoo.start()


def test_a_slow_start_keeps_nobody_waiting() -> None:
    with backend("slow") as zoo:
        assert zoo.state is State.DEAD
        job = zoo.reconstruct(ask("tame", size=(1000, 1000)))
        assert zoo.state is State.STARTING and job.poll(0) is None
        assert isinstance(last(job), Done)
        assert zoo.state is State.READY


@pytest.mark.parametrize("command", [["/nonexistent/python"], [str(Path(__file__).parent)], [__file__]])
def test_what_can_not_be_started(command: list[str]) -> None:
    others = set(threading.enumerate())
    with LocalBackend(command) as zoo:
        for _ in range(2):
            with pytest.raises(WorkerStartError, match="can't be started"):
                zoo.reconstruct(ask("tame"))
            assert zoo.state is State.DEAD
    assert set(threading.enumerate()) <= others


@pytest.mark.usefixtures("hasty")
def test_a_wrapper_around_the_worker() -> None:
    """As SAM3D_WORKER_COMMAND may have it: what is killed is the whole group."""
    with backend(before=["env", "-u", "SAM3D_LIFELINE_FD", "sh", "-c", '"$@"; exit $?', "sh"]) as zoo:
        worker = zoo.start().pid
        assert worker != zoo.worker_pid
        job = zoo.reconstruct(ask("holds_the_lock", 60))
        first(job, Progress)
        zoo.close()
        until(lambda: not alive(worker))
        job = zoo.reconstruct(ask("kills_itself", signal.SIGKILL))
        assert "exit code 137" in error_of(job).message
