"""Cancelling, closing and everything that several threads may do to one backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from comfyui_sam3d.client import LocalBackend, State
from comfyui_sam3d.contract import Cancelled, Done, Failed, Log, Progress, Scene
from comfyui_sam3d.contract.errors import JobCancelled, Sam3dError, WorkerCrashed, WorkerStateError
from comfyui_sam3d.tests.zoo.keeper import LONG, alive, ask, backend, first, last, until


@pytest.fixture(scope="module")
def zoo() -> Iterator[LocalBackend]:
    with backend(grace=LONG) as shared:  # nothing here is killed
        yield shared


def test_cancel_at_the_next_step(zoo: LocalBackend) -> None:
    pid = zoo.start().pid
    job = zoo.reconstruct(ask("steps", 100_000))
    first(job, Progress)
    start = time.monotonic()
    job.cancel()
    job.cancel()
    assert isinstance(last(job), Cancelled)
    assert time.monotonic() - start < 10  # the figure stands in benchmarks/; here it is only not the grace
    job.cancel()  # of a job that is over: nothing
    with pytest.raises(JobCancelled):
        job.result()
    assert [type(e) for e in job] == []
    assert zoo.reconstruct(ask("tame")).result().engine == "draft"
    assert zoo.start().pid == pid, "the worker lived on"


def test_cancel_before_the_worker_has_started() -> None:
    with backend("slow") as zoo:
        job = zoo.reconstruct(ask("sleeps", 600))
        job.cancel()
        assert isinstance(job.poll(0), Cancelled), "at once: the worker has never heard of it"
        assert zoo.state is State.STARTING
        assert isinstance(last(zoo.reconstruct(ask("tame"))), Done), "and never does"


def test_cancel_while_a_large_request_is_being_sent(zoo: LocalBackend) -> None:
    zoo.start()
    for pause in (0.0, 0.002, 0.01, 0.05):
        job = zoo.reconstruct(ask("ignores_cancel", 0, size=(3000, 3000)))
        threading.Event().wait(pause)
        job.cancel()
        assert isinstance(last(job), (Cancelled, Done))
        assert zoo.reconstruct(ask("tame", 3)).result().seed == 3


def test_a_late_cancel_is_not_the_next_jobs(zoo: LocalBackend) -> None:
    """Job n has ended in the worker, the client doesn't know yet, and cancels it: n + 1 must not notice."""
    for i in range(50):
        job = zoo.reconstruct(ask("tame"))
        threading.Event().wait(0.0005 * (i % 8))
        job.cancel()
        assert isinstance(last(job), (Cancelled, Done))
        assert zoo.reconstruct(ask("tame", i)).result().seed == i


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.full)])
def test_the_grace_of_one_job_is_not_the_next_jobs(rounds: int) -> None:
    """Job n ends just as its grace does. Whoever wins, job n + 1 runs."""
    with backend(grace=0.1) as zoo:
        for i in range(rounds):
            zoo.start()
            job = zoo.reconstruct(ask("ignores_cancel", 10 + i % 3))
            first(job, Progress)
            job.cancel()
            assert isinstance(last(job), (Cancelled, Done))
            assert zoo.reconstruct(ask("steps", 8)).result().seed == 8


def test_a_job_that_ignores_cancel_is_killed_after_the_grace() -> None:
    with backend(grace=0.5) as zoo:
        pid = zoo.start().pid
        job = zoo.reconstruct(ask("ignores_cancel", 10_000))
        first(job, Progress)
        start = time.monotonic()
        while not job.finished:  # asking again puts nothing off
            assert time.monotonic() - start < LONG
            job.cancel()
            time.sleep(0.05)
        assert isinstance(last(job), Cancelled)
        assert time.monotonic() - start >= 0.5
        assert not alive(pid) and zoo.state is State.DEAD
        assert zoo.reconstruct(ask("tame")).result().seed == 0
        assert zoo.start().pid != pid


def test_a_job_that_hangs_is_killed_after_the_grace() -> None:
    with backend(grace=0.2) as one, backend(grace=0.2) as two:
        jobs = [one.reconstruct(ask("sleeps", 60)), two.reconstruct(ask("holds_the_lock", 60))]
        for job in jobs:
            first(job, Progress)
            job.cancel()
        assert all(isinstance(last(job), Cancelled) for job in jobs)


def test_cancel_from_many_threads(zoo: LocalBackend) -> None:
    job = zoo.reconstruct(ask("steps", 100_000))
    first(job, Progress)
    threads = [threading.Thread(target=job.cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert isinstance(last(job), Cancelled)
    for thread in threads:
        thread.join()
    assert zoo.reconstruct(ask("tame")).result().seed == 0


# -- close


def test_close_during_a_job() -> None:
    zoo = backend()
    job = zoo.reconstruct(ask("sleeps", 60))
    first(job, Progress)
    pid = zoo.worker_pid
    assert pid is not None and zoo.state is State.BUSY
    closer = threading.Thread(target=zoo.close)
    closer.start()
    assert isinstance(last(job), Cancelled)
    closer.join()
    assert zoo.state is State.DEAD and zoo.worker_pid is None and not alive(pid)
    zoo.close()
    assert zoo.reconstruct(ask("tame", 2)).result().seed == 2, "a later call starts a new worker"
    zoo.close()
    zoo.close()


def test_close_ends_a_worker_that_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfyui_sam3d.client.local.PATIENCE", 0.1)
    zoo = backend()
    job = zoo.reconstruct(ask("holds_the_lock", 60))
    first(job, Progress)
    zoo.close()
    assert zoo.state is State.DEAD and isinstance(job.poll(0), (Progress, Cancelled))


def test_close_while_it_starts() -> None:
    zoo = backend("silent")
    job = zoo.reconstruct(ask("tame"))
    problems: list[Sam3dError] = []

    def start() -> None:
        try:
            zoo.start()
        except Sam3dError as problem:
            problems.append(problem)

    waiter = threading.Thread(target=start)
    waiter.start()
    assert zoo.state is State.STARTING
    zoo.close()
    waiter.join()
    assert isinstance(last(job), Cancelled)
    assert all(type(problem) is WorkerStateError for problem in problems)


def test_calls_while_it_is_being_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfyui_sam3d.client.local.PATIENCE", 0.8)
    zoo = backend()
    job = zoo.reconstruct(ask("holds_the_lock", 60))
    first(job, Progress)
    closers = [threading.Thread(target=zoo.close) for _ in range(3)]
    for closer in closers:
        closer.start()
    until(lambda: zoo.state is State.STOPPING)
    for call in (zoo.start, lambda: zoo.reconstruct(ask("tame")), lambda: zoo.export(Scene(objects=(), engine="x"), [])):
        with pytest.raises(WorkerStateError, match="being closed"):
            call()
    for closer in closers:
        closer.join()
    assert zoo.state is State.DEAD


def test_close_while_a_large_request_is_being_sent() -> None:
    zoo = backend()
    zoo.start()
    job = zoo.reconstruct(ask("tame", size=(3000, 3000)))
    zoo.close()
    assert isinstance(last(job), (Cancelled, Done)) and zoo.state is State.DEAD


def test_close_during_an_export() -> None:
    zoo = backend("slow")
    ended: list[object] = []

    def export() -> None:
        try:
            ended.append(zoo.export(Scene(objects=(), engine="x"), ["glb"]))
        except Sam3dError as problem:
            ended.append(problem)

    caller = threading.Thread(target=export)
    caller.start()
    until(lambda: zoo.state is State.STARTING)
    zoo.close()
    caller.join()
    assert isinstance(ended[0], JobCancelled)


# -- the rest


def test_start_from_many_threads() -> None:
    with backend() as zoo:
        pids: list[int] = []
        threads = [threading.Thread(target=lambda: pids.append(zoo.start().pid)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(pids) == 6 and len(set(pids)) == 1


def test_two_backends_in_one_process(zoo: LocalBackend) -> None:
    with backend() as other:
        jobs = [zoo.reconstruct(ask("steps", 10)), other.reconstruct(ask("steps", 12))]
        assert [job.result().seed for job in jobs] == [10, 12]
        assert zoo.worker_pid != other.worker_pid
        dying = other.reconstruct(ask("aborts"))
        living = zoo.reconstruct(ask("steps", 10))
        assert isinstance(last(dying), Failed)
        assert living.result().seed == 10
        other.close()
        assert zoo.reconstruct(ask("tame", 1)).result().seed == 1


def test_a_job_that_says_too_much_keeps_the_end(zoo: LocalBackend) -> None:
    """Nobody watches: the oldest events go, the last one stays."""
    job = zoo.reconstruct(ask("chatters", 5000))
    until(lambda: job.finished)
    events = list(job)
    assert isinstance(events[-1], Done) and len(events) < 1000
    assert [event.text for event in events if isinstance(event, Log)][-1] == "line 4999"


def test_the_error_of_a_dead_worker_is_told_once(zoo: LocalBackend) -> None:
    job = zoo.reconstruct(ask("aborts"))
    events = list(job)
    assert [type(e) for e in events].count(Failed) == 1
    with pytest.raises(WorkerCrashed):
        job.result()
    with pytest.raises(WorkerCrashed):
        job.result()
    assert zoo.state is State.DEAD
