"""Executors without a cluster: which GPUs, the relay's frames over a real worker, and the Modal executor over a map of our own that is as unruly as Modal's."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.client import open_backend
from comfyui_sam3d.contract.backend import Cancelled, Done, Failed, Progress
from comfyui_sam3d.contract.errors import JobCancelled, OptionError, ProtocolError, SetupError, WorkerCrashed, WorkerError, WorkerStartError
from comfyui_sam3d.contract.request import ReconstructRequest
from comfyui_sam3d.factory import executors
from comfyui_sam3d.factory.batch import BatchOptions
from comfyui_sam3d.factory.batch.run import run as run_batch
from comfyui_sam3d.factory.cli.app import batch as batch_command
from comfyui_sam3d.factory.executors import EXECUTORS, check_executor, open_executor
from comfyui_sam3d.factory.executors import modal as modal_executor
from comfyui_sam3d.factory.executors.local import environments
from comfyui_sam3d.factory.executors.modal import METHOD, ModalExecutor, deployed
from comfyui_sam3d.factory.executors.relay import Relay, read_event, request_frame
from comfyui_sam3d.factory.jobs import Interrupts

from factory_cli import STUB, here, hidden, is_complete, sprite


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)


def request(seed: int = 0) -> ReconstructRequest:
    mask = np.zeros((1, 16, 16), bool)
    mask[:, 4:12, 4:12] = True
    return ReconstructRequest(image=np.full((16, 16, 3), 90, np.uint8), masks=mask, outputs=("glb",), seed=seed)


# --- Ray, without a cluster ---


@pytest.mark.parametrize(
    "said, counts", [("The actor is dead because its node has died. Node Id: 12", False), ("The actor died: SIGKILL", True)]
)
def test_a_machine_that_is_gone_blames_no_job(said, counts):
    ray = pytest.importorskip("ray", reason="layer `ray`")
    from comfyui_sam3d.factory.executors.ray import RaySlot

    class Actor:
        run = property(lambda self: self)

        def options(self, **_: object) -> Actor:
            return self

        def remote(self, frame: bytes) -> object:
            raise ray.exceptions.RayActorError(error_msg=said)

    slot = RaySlot(gpus=False)
    slot._actor = Actor()
    with pytest.raises(WorkerError) as caught:
        slot.reconstruct(request()).result()
    assert isinstance(caught.value, WorkerCrashed) == counts, "only a crash counts against the item"


# --- which GPUs ---


@pytest.fixture
def smi(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Puts an nvidia-smi on the PATH that prints this text and ends with its last word's code where that is `exit`."""
    if sys.platform == "win32":
        pytest.skip("a shell script stands in for nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(body: str) -> None:
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return put


def visible(gpus: str) -> list[str]:
    return [variables["CUDA_VISIBLE_DEVICES"] for variables in environments(None, gpus)]


def test_which_gpus(smi, monkeypatch):
    smi("echo 0; echo 1; echo 2")
    assert visible("all") == ["0", "1", "2"]
    assert visible("2") == ["0", "1"]
    assert visible("0,2") == ["0", "2"]
    assert visible("2,") == ["2"]
    assert visible("GPU-ab12") == ["GPU-ab12"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")  # what this process was given is all there is
    assert visible("all") == ["4", "6"] and visible("1") == ["4"]
    assert [
        executor.slots for executor in (open_executor("local", gpus="all"), open_executor("local", workers=3), open_executor("local"))
    ] == [2, 3, 1]


@pytest.mark.parametrize("gpus", ["0", "4", "0,0", ",", "", "0,,1", "0;rm", "all,1 2"])
def test_gpus_that_cannot_be_meant(smi, gpus):
    smi("echo 0; echo 1; echo 2")
    with pytest.raises(OptionError, match="--gpus"):
        environments(None, gpus)


@pytest.mark.parametrize("body", ["exit 9", "echo no devices were found", "true"])
def test_gpus_that_cannot_be_counted(smi, body, monkeypatch):
    smi(body)
    for gpus in ("all", "1"):
        with pytest.raises(SetupError, match="can't be counted"):
            environments(None, gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SetupError, match="hides every GPU"):
        environments(None, "all")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetupError, match="nvidia-smi can't be run"):
        environments(None, "all")


# --- choosing one ---


def test_the_command_line_offers_what_there_is():
    (option,) = [p for p in batch_command.params if p.name == "executor"]
    assert tuple(option.type.choices) == EXECUTORS


@pytest.mark.parametrize("name", ["ray", "modal"])
def test_an_executor_whose_package_is_missing(tmp_path, capsys, monkeypatch, name):
    sprite(tmp_path / "in" / "a.png")
    monkeypatch.setattr(executors, "find_spec", lambda _: None)
    ran = here("batch", tmp_path / "in", "--out", tmp_path / "out", "--executor", name, "--json", capsys=capsys)
    (failed,) = ran.events
    assert ran.code == 3 and failed["error"]["code"] == "E_SETUP"
    assert name in failed["error"]["message"] and failed["error"]["hint"] == f"Run: python install.py --layers base,{name}"
    assert not (tmp_path / "out").exists()


def test_options_that_no_executor_takes():
    for name in ("ray", "modal"):
        with pytest.raises(OptionError, match="--gpus can't be used"):
            check_executor(name, workers=None, gpus="1")
    with pytest.raises(OptionError, match="no executor 'slurm'"):
        open_executor("slurm")


# --- the relay ---


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay()
    yield made
    made.close()


def test_a_job_through_the_relay_is_the_job(relay):
    frames = list(relay.run(request_frame(7, request(1000))))
    numbers, events = zip(*map(read_event, frames))
    assert set(numbers) == {7} and all(isinstance(frame, bytes) for frame in frames)
    assert [type(e) for e in events[:-1]] == [Progress] * (len(events) - 1) and len(events) > 2
    assert isinstance(events[-1], Done)
    with open_backend() as backend:
        direct = backend.reconstruct(request(1000)).result()
    assert events[-1].scene.files["model.glb"].tobytes() == direct.files["model.glb"].tobytes()
    assert events[-1].scene.warnings == direct.warnings and events[-1].scene.seed == 1000


def test_failures_come_back_as_events(relay):
    (number, died) = read_event(relay.answer(request_frame(3, request(666))))
    assert number == 3 and isinstance(died, Failed) and isinstance(died.error, WorkerCrashed) and "SIGKILL" in died.error.message
    assert read_event(relay.answer(request_frame(4, request(667))))[1].error.code == "E_MEMORY"
    assert isinstance(read_event(relay.answer(request_frame(5, request())))[1], Done), "a fresh worker"


def test_no_worker_is_a_failed_job(monkeypatch):
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", "no-such-worker")
    event = read_event(Relay().answer(request_frame(1, request())))[1]
    assert isinstance(event, Failed) and event.error.code == "E_WORKER_START"


@pytest.mark.parametrize("frame", [b"", b"nonsense", request_frame(1, request())[:-1], request_frame(1, request()) + b"!"])
def test_what_is_no_request(relay, frame):
    (answer,) = relay.run(frame)
    number, event = read_event(answer)
    assert number == 0 and event.error.code == "E_PROTOCOL"
    with pytest.raises(ProtocolError):
        read_event(frame)
    with pytest.raises(ProtocolError):  # a request is no answer
        read_event(request_frame(1, request()))


def test_who_stops_listening_cancels(relay):
    answers = relay.run(request_frame(1, request(1060)))
    next(answers)
    answers.close()
    deadline = time.monotonic() + 10
    while relay._backend.state.value == "busy":
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- Modal's side: one map for all slots ---


class OurMap:
    """Inputs to a few relays, answers in any order. `deadly(number)`: that input's container dies; `broken`: raised by the map itself."""

    def __init__(self, deadly: Callable[[int], bool] = lambda _: False, broken: Exception | None = None, containers: int = 2) -> None:
        self.deadly, self.broken, self.containers = deadly, broken, containers
        self.maps, self.taken = 0, 0

    async def __call__(self, frames: AsyncIterator[bytes]) -> AsyncGenerator[bytes | BaseException, None]:
        self.maps += 1
        if self.broken is not None:
            raise self.broken
        made = [Relay() for _ in range(self.containers)]
        free: asyncio.Queue[Relay] = asyncio.Queue()
        answers: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()

        async def work(frame: bytes, number: int) -> None:
            if self.deadly(number):
                answers.put_nowait(RuntimeError("container exited"))
                return
            relay = await free.get()
            answers.put_nowait(await asyncio.to_thread(relay.answer, frame))
            free.put_nowait(relay)

        async def feed() -> None:
            works = []
            async for frame in frames:
                self.taken += 1
                works.append(asyncio.create_task(work(frame, self.taken)))
            await asyncio.gather(*works)
            answers.put_nowait(None)

        for relay in made:
            free.put_nowait(relay)
        feeding = asyncio.create_task(feed())
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:  # also where nobody listens any more: what is under way is cancelled
            feeding.cancel()
            for relay in made:
                relay.close()


def batch(folder: Path, executor: ModalExecutor, **options: object) -> tuple[int, list[dict]]:
    """A batch over the executor -> its exit code and the manifest's lines."""
    chosen = BatchOptions(folder / "in", folder / "out", executor="modal", settings={"outputs": "glb"}, **options)
    code = run_batch(chosen, lambda kind, **fields: None, Interrupts(), executor)
    manifest = folder / "out" / "manifest.jsonl"
    return code, [json.loads(line) for line in manifest.read_text().splitlines()] if manifest.exists() else []


@pytest.fixture
def sprites(tmp_path) -> Path:
    for number in range(8):
        sprite(tmp_path / "in" / f"{number}.png", shade=40 + 10 * number)
    return tmp_path


def test_a_batch_through_a_map(sprites):
    """The manifest and the files are the caller's; the containers of two answers die once, and no other job is blamed for it."""
    ours = OurMap(deadly=lambda number: number in (2, 3))
    code, lines = batch(sprites, ModalExecutor(3, ours))
    assert code == 0 and ours.maps >= 2, "what was not yet in the map went into the next one"
    done = [line["name"] for line in lines if line["status"] == "done"]
    failed = [line for line in lines if line["status"] == "failed"]
    assert sorted(done) == [str(n) for n in range(8)] and len(failed) == 2 and {line["attempt"] for line in failed} == {1}
    assert all("container exited" in line["error"]["message"] and line["kills"] == 1 for line in failed)
    assert ours.taken == len(lines) == 10, "every attempt is a line"
    for name in done:
        is_complete(sprites / "out" / name)
    assert hidden(sprites / "out") == []
    again = OurMap()
    code, lines = batch(sprites, ModalExecutor(3, again))
    assert code == 0 and again.maps == 0 and len(lines) == 10, "nothing to do: Modal isn't asked"


def test_poison_is_quarantined_and_a_refusal_of_modal_stops(sprites):
    (sprites / "in" / "pairs.jsonl").write_text(
        "\n".join(json.dumps({"image": f"{n}.png", "seed": 666 if n == 3 else n}) for n in range(8))
    )
    code, lines = batch(sprites, ModalExecutor(4, OurMap()))
    assert code == 1
    assert [(line["status"], line["attempt"]) for line in lines if line["name"] == "3"] == [("failed", 1), ("quarantined", 2)]
    assert sorted(line["name"] for line in lines if line["status"] == "done") == ["0", "1", "2", "4", "5", "6", "7"]


@pytest.mark.parametrize(("kind", "error", "code"), [("AuthError", SetupError, 3), ("ConnectionError", WorkerStartError, 3)])
def test_modal_that_cannot_be_reached(sprites, kind, error, code):
    """One failed line at most for each slot, no retries without end, and an exit code that says what it was."""
    ours = OurMap(broken=type(kind, (Exception,), {})("no way"))
    ended, lines = batch(sprites, ModalExecutor(2, ours))
    assert ended == code and 1 <= len(lines) <= 4 and {line["error"]["code"] for line in lines} == {error.code}


def test_an_idle_map_ends_and_the_next_job_opens_another(monkeypatch):
    monkeypatch.setattr(modal_executor, "IDLE", 0.2)
    ours = OurMap(containers=1)
    executor = ModalExecutor(1, ours)
    slot = executor.lease(0)
    slot.reconstruct(request()).result()
    deadline = time.monotonic() + 10
    while executor._thread is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert slot.reconstruct(request(1001)).result().seed == 1001 and ours.maps == 2, "and one that is under way for longer isn't idle"
    executor.close()


def test_a_connection_that_breaks_blames_no_job(sprites):
    """The map itself fails once with work in it: tried again, and no worker counts as killed."""

    class Breaking(OurMap):
        async def __call__(self, frames: AsyncIterator[bytes]) -> AsyncGenerator[bytes | BaseException, None]:
            async for answer in super().__call__(frames):
                if self.maps == 1:
                    raise ConnectionError("gone")
                yield answer

    code, lines = batch(sprites, ModalExecutor(2, Breaking()))
    failed = [line for line in lines if line["status"] != "done"]
    assert code == 0 and 1 <= len(failed) <= 2
    assert {(line["error"]["code"], line["kills"], line["status"]) for line in failed} == {("E_WORKER", 0, "failed")}


def test_stopping(monkeypatch):
    """A cancelled job ends at once; closing ends the others, and the map."""
    executor = ModalExecutor(2, OurMap())
    first, second = executor.lease(0), executor.lease(1)
    job, other = first.reconstruct(request(1060)), second.reconstruct(request(1060))
    time.sleep(0.3)
    job.cancel()
    assert isinstance(job.poll(1), Cancelled)
    second.close()
    with pytest.raises(JobCancelled):
        other.result()
    third = executor.lease(0).reconstruct(request())
    threading.Timer(0.1, executor.close).start()
    with pytest.raises(JobCancelled):
        third.result()


def test_modal_has_what_we_call():
    """The deployed class is met as modal 1.6 has it, and without a token it says so."""
    modal = pytest.importorskip("modal", reason="layer `modal`: python install.py --layers base,modal")
    parameters = inspect.signature(modal.Function.map).parameters
    assert {"order_outputs", "return_exceptions"} <= set(parameters)
    assert callable(getattr(modal.Cls.from_name("sam3d", "Sam3d")(), METHOD).map)
    if os.environ.get("MODAL_TOKEN_ID") or (Path.home() / ".modal.toml").exists():
        pytest.skip("this machine has a Modal account: it isn't called")

    async def nothing() -> AsyncIterator[bytes]:
        for frame in ():
            yield frame

    async def call() -> list[object]:
        return [answer async for answer in deployed()(nothing())]

    with pytest.raises(modal.exception.AuthError):
        asyncio.run(call())
