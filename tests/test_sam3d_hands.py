"""Several objects finished at a time: order, progress, failures, cancellation."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import EngineError, JobCancelled
from comfyui_sam3d.worker.engines.sam3d import mesh
from comfyui_sam3d.worker.engines.sam3d.hands import Finishing, Shared, most
from comfyui_sam3d.worker.job import QuietJob, timed
from comfyui_sam3d.worker.sam3d.networks import Networks

from sam3d_bench import a_request, an_engine, content, run, tiny_store


class Told(QuietJob):
    """Remembers its steps, and from which threads; cancelled at step number `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.steps: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.inside = 0
        self.stop = stop

    def step(self, stage: str, step: int, total: int) -> None:
        self.inside += 1
        assert self.inside == 1, "two threads speak to the job at once"
        self.steps.append((stage, step, total))
        time.sleep(0.001)
        self.inside -= 1
        if self.stop is not None and len(self.steps) > self.stop:
            raise JobCancelled("The job was cancelled.")

    def log(self, text: str, level: str = "info") -> None:
        self.notes.append(f"{level}: {text}")


def each(objects: int, workers: int, job: QuietJob, run: Callable[[int, QuietJob], str]) -> list[str]:
    """Every object finished, all of them begun at once."""
    shared = Shared(job, objects) if workers > 1 else job
    with Finishing[str](objects, workers, shared, mesh.torch.device("cpu")) as finishing:
        for index in range(objects):
            finishing.begin(index, functools.partial(run, index))
        return finishing.results()


def work(index: int, job: QuietJob, pause: float = 0.02) -> str:
    for stage in ("decode", "clean-up", "texture"):
        with timed(job, stage):
            for step in range(3):
                job.step(stage, step, 2)
                time.sleep(pause * (index % 2 + 1) / 6)
    return f"object {index}"


def test_results_in_order_and_one_even_bar() -> None:
    job, together = Told(), threading.Barrier(3, timeout=20)

    def run(index: int, part: QuietJob) -> str:
        if index < 3:
            together.wait()  # three really work at a time
        part.log(f"object {index}", "warning")
        return work(index, part)

    assert each(5, 3, job, run) == [f"object {i}" for i in range(5)]
    assert sorted(job.notes) == [f"warning: object {i}" for i in range(5)]
    assert {stage for stage, _, _ in job.steps} == {"objects"} and {total for _, _, total in job.steps} == {500}
    numbers = [step for _, step, _ in job.steps]
    assert numbers == sorted(numbers) and numbers[0] == 0 and numbers[-1] == 500
    assert set(job.timings) == {"decode", "clean-up", "texture"} and all(seconds > 0.05 for seconds in job.timings.values())


def test_one_worker_works_as_before() -> None:
    job = Told()
    assert each(2, 1, job, work) == ["object 0", "object 1"]
    assert [stage for stage, _, _ in job.steps][:4] == ["decode"] * 3 + ["clean-up"]


def test_the_first_failure_stops_the_others() -> None:
    begun: list[int] = []

    def run(index: int, part: QuietJob) -> str:
        begun.append(index)
        if index == 1:
            raise EngineError("this one fails")
        for step in range(2000):
            part.step("clean-up", step, 2000)
            time.sleep(0.005)
        return "done"

    start = time.monotonic()
    with pytest.raises(EngineError, match="this one fails"):
        each(6, 2, Told(), run)
    assert time.monotonic() - start < 5 and sorted(begun) == [0, 1]


@pytest.mark.parametrize("follows", [RuntimeError, KeyboardInterrupt])
def test_what_failed_first_is_raised_whatever_follows_in_the_block(follows: type[BaseException]) -> None:
    """But for who interrupts the process."""
    job = Shared(Told(), 2)

    def run(index: int, part: QuietJob) -> str:
        raise EngineError("this one fails")

    raised = pytest.raises(EngineError if follows is RuntimeError else KeyboardInterrupt)
    with raised, Finishing[str](2, 2, job, mesh.torch.device("cpu")) as finishing:
        finishing.begin(0, functools.partial(run, 0))
        deadline = time.monotonic() + 20
        while job.problem is None and time.monotonic() < deadline:
            time.sleep(0.001)
        raise follows("because of the first")


def test_a_cancelled_job_stops_all_of_them() -> None:
    job = Told(stop=8)
    with pytest.raises(JobCancelled, match="The job was cancelled"):
        each(6, 3, job, work)
    assert 9 <= len(job.steps) <= 12  # the others stop at their next step, unheard


@pytest.mark.parametrize(
    ("plan", "objects", "free", "own", "used", "hands"),
    [
        ("resident", 8, 140e9, 0, 0, 4),
        ("resident", 2, 140e9, 0, 0, 2),
        ("resident", 2, 12e9, 0, 0, 1),  # the networks and what stage 1 keeps come yet
        ("resident", 3, 21e9, 0, 0, 3),
        ("resident", 3, 4e9, 17e9, 11e9, 3),
        ("resident", 3, 1e9, 20e9, 16e9, 1),
        ("swapped", 8, 140e9, 0, 0, 1),
    ],
)
def test_as_many_hands_as_there_is_room_for(monkeypatch, plan, objects, free, own, used, hands) -> None:
    cuda = mesh.torch.cuda
    monkeypatch.setattr(cuda, "mem_get_info", lambda device: (int(free), int(144e9)))
    monkeypatch.setattr(cuda, "memory_reserved", lambda device: int(own))
    monkeypatch.setattr(cuda, "memory_allocated", lambda device: int(used))
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert most(Networks(lambda name, device: None, mesh.torch.device("cuda"), plan), objects) == hands


def test_two_hands_make_what_one_makes(tmp_path, monkeypatch, one_thread) -> None:
    """Also where the device's memory runs out for one of them: what is done again is done alone."""
    store = tiny_store(tmp_path / "weights")
    alone, together = an_engine(store, tmp_path / "a"), an_engine(store, tmp_path / "b", memory=10**8)
    alone.hands, together.hands = 1, 2
    request = a_request(2, outputs=("glb", "ply"))
    wanted, (made, job) = content(run(alone, request)[0]), run(together, request)
    assert content(made) == wanted
    assert "objects" in job.stages and not job.stages & {"decode", "clean-up", "texture"}
    assert job.plans[-1][-1].stage == "objects"

    calls, real = [], mesh.clean

    def tight(*args: object) -> object:
        calls.append(threading.get_ident())
        if len(calls) == 2:
            raise mesh.torch.cuda.OutOfMemoryError("no memory")
        return real(*args)

    monkeypatch.setattr(mesh, "clean", tight)
    tightened = an_engine(store, tmp_path / "c")
    tightened.hands = 2
    scene = run(tightened, request)[0]
    assert len(calls) == 3 and len(set(calls)) == 2
    assert any("clean-up" in warning for warning in scene.warnings)
    assert content(scene.replace(warnings=made.warnings)) == wanted
