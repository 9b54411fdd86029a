"""A rule-based state machine over a real worker: whatever is called in whatever order, the backend's state is the model's."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from comfyui_sam3d.client import LocalBackend, State
from comfyui_sam3d.contract import Cancelled, Done, Failed, Progress, Scene
from comfyui_sam3d.contract.errors import EngineError, JobCancelled, WorkerCrashed, WorkerStateError
from comfyui_sam3d.tests.zoo.keeper import LONG, alive, ask, backend, first, last, until
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

EMPTY = Scene(objects=(), engine="x")


class Machine(RuleBasedStateMachine):
    """The model is two variables: whether there is a worker, and the job that runs in it for as long as it isn't told otherwise."""

    zoo: LocalBackend
    pid: int | None = None
    job: Any = None

    @initialize(eager=st.booleans())
    def open(self, eager: bool) -> None:
        self.zoo = backend(grace=LONG)
        if eager:
            self.start()

    def teardown(self) -> None:
        if hasattr(self, "zoo"):
            self.close()

    # -- calls

    @rule()
    def start(self) -> None:
        pid = self.zoo.start().pid
        assert self.pid in (None, pid), "a living worker is kept"
        self.pid = pid

    @precondition(lambda self: self.job is None)
    @rule(watch=st.booleans())
    def begin(self, watch: bool) -> None:
        self.job = self.zoo.reconstruct(ask("steps", 100_000))
        if watch:
            first(self.job, Progress)
        self.pid = self.pid or self.zoo.worker_pid

    @precondition(lambda self: self.job is None)
    @rule(seed=st.integers(0, 2**64 - 1))
    def run(self, seed: int) -> None:
        scene = self.zoo.reconstruct(ask("tame", seed)).result()
        assert scene.seed == seed
        assert self.pid in (None, scene.parameters["pid"])
        self.pid = scene.parameters["pid"]

    @precondition(lambda self: self.job is None)
    @rule()
    def run_what_fails(self) -> None:
        with pytest.raises(EngineError):
            self.zoo.reconstruct(ask("raises")).result()
        self.pid = self.zoo.worker_pid

    @precondition(lambda self: self.job is None)
    @rule()
    def run_what_dies(self) -> None:
        with pytest.raises(WorkerCrashed):
            self.zoo.reconstruct(ask("aborts")).result()
        self.pid = None

    @precondition(lambda self: self.job is None)
    @rule()
    def export(self) -> None:
        assert self.zoo.export(EMPTY, ["glb"]) == {"glb": b"glbglbglb"}
        self.pid = self.pid or self.zoo.worker_pid

    @precondition(lambda self: self.job is not None)
    @rule()
    def refuse(self) -> None:
        with pytest.raises(WorkerStateError):
            self.zoo.reconstruct(ask("tame"))
        with pytest.raises(WorkerStateError):
            self.zoo.export(EMPTY, ["glb"])

    @precondition(lambda self: self.job is not None)
    @rule(times=st.integers(1, 5))
    def iterate(self, times: int) -> None:
        for _ in range(times):
            first(self.job, Progress)

    @precondition(lambda self: self.job is not None)
    @rule(twice=st.booleans())
    def cancel(self, twice: bool) -> None:
        self.job.cancel()
        if twice:
            self.job.cancel()
        self.ended(Cancelled)
        self.zoo.start()

    @rule()
    def close(self) -> None:
        self.zoo.close()
        if self.job is not None:
            self.ended(Cancelled)
        self.gone()

    # -- blows

    @precondition(lambda self: self.pid is not None)
    @rule()
    def kill(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        if self.job is not None:
            self.ended(Failed)
        until(lambda: self.zoo.state is State.DEAD)
        self.gone()

    @precondition(lambda self: self.pid is not None and self.job is None)
    @rule()
    def kill_and_call(self) -> None:
        """A worker that has died while nothing ran costs nobody a job, even before it was waited for."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        until(lambda: self.zoo.state is not State.READY)
        self.pid = None
        self.run(1)

    # -- what must hold

    def ended(self, kind: type) -> None:
        job, self.job = self.job, None
        event = last(job)
        assert isinstance(event, kind)
        assert job.finished and job.poll(0) is event and list(job) == []
        job.cancel()
        if kind is Cancelled:
            with pytest.raises(JobCancelled):
                job.result()

    def gone(self) -> None:
        assert self.zoo.state is State.DEAD and self.zoo.worker_pid is None
        assert self.pid is None or not alive(self.pid)
        self.pid = None

    @invariant()
    def the_state_is_the_models(self) -> None:
        if not hasattr(self, "zoo"):
            return
        if self.job is not None:
            assert self.zoo.state in (State.STARTING, State.BUSY) and not self.job.finished
        elif self.pid is not None:
            assert self.zoo.state is State.READY and self.zoo.worker_pid == self.pid
        else:
            assert self.zoo.state is State.DEAD and self.zoo.worker_pid is None


@pytest.mark.parametrize("examples", [8, pytest.param(150, marks=pytest.mark.full)])
def test_states(examples: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_done_is_an_event() -> None:
    """The model above never lets a long job finish; this one does."""
    with backend() as zoo:
        job = zoo.reconstruct(ask("steps", 3))
        assert isinstance(last(job), Done)
        assert zoo.state is State.READY
