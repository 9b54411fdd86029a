"""client/remote.py against a real server on a real port: what a local worker does, a server must do as well."""

from __future__ import annotations

import shlex
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.client import LocalBackend, open_backend
from comfyui_sam3d.client.remote import RemoteBackend
from comfyui_sam3d.contract.backend import Cancelled, Done, Failed, Log, Progress
from comfyui_sam3d.contract.errors import (
    BusyError,
    DeniedError,
    JobCancelled,
    OptionError,
    OutOfMemoryError,
    UnreachableError,
    WorkerCrashed,
)
from comfyui_sam3d.contract.record import content_key
from comfyui_sam3d.contract.request import DraftOptions, PrepareRequest, ReconstructRequest, Sam3dOptions
from comfyui_sam3d.contract.version import PROTOCOL
from comfyui_sam3d.factory.server.gate import Access

from .factory_cli import STUB, cli, sprite
from .server_app import SMALL, on_port


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with on_port(tmp_path_factory.mktemp("server"), workers=2) as (found, _):
        yield found


def request(seed: int = 0, **fields: object) -> ReconstructRequest:
    image = np.random.default_rng(7).integers(0, 256, (20, 24, 3), np.uint8)
    masks = np.zeros((2, 20, 24), bool)
    masks[0, 3:9, 4:20], masks[1, 10:18, 2:12] = True, True
    known = {"image": image, "masks": masks, "names": ("plate", "fork"), "seed": seed, "outputs": ("glb", "ply"), **fields}
    return ReconstructRequest(**known)  # type: ignore[arg-type]


def test_the_same_scene_as_from_a_local_worker(url: str) -> None:
    wanted = request(3)
    with LocalBackend(shlex.split(STUB)) as local, RemoteBackend(url) as remote:
        here, there = local.reconstruct(wanted).result(), remote.reconstruct(wanted).result()
    assert content_key(here.objects) == content_key(there.objects) and here.camera == there.camera
    assert {name: data.tobytes() for name, data in here.files.items()} == {name: data.tobytes() for name, data in there.files.items()}
    assert (there.seed, there.engine, there.warnings) == (3, here.engine, here.warnings)


def test_everything_that_a_request_can_hold_arrives(url: str) -> None:
    rng = np.random.default_rng(1)
    wanted = request(
        5,
        alpha=rng.integers(0, 256, (2, 20, 24), np.uint8),
        draft=DraftOptions(back="image", back_image=rng.integers(0, 256, (5, 6, 4), np.uint8)),
        sam3d=Sam3dOptions(pointmap=rng.random((4, 5, 3), np.float32), intrinsics=np.eye(3, dtype=np.float32)),
    )
    with RemoteBackend(url) as remote:
        scene = remote.reconstruct(wanted).result()
    assert dict(scene.parameters) == wanted.parameters()


def test_events_come_one_by_one_and_the_last_is_done(url: str) -> None:
    with RemoteBackend(url) as remote:
        found = list(remote.reconstruct(request(1001)))
    fractions = [event.fraction for event in found if isinstance(event, Progress)]
    assert isinstance(found[-1], Done) and len(fractions) > 3 and fractions == sorted(fractions)
    assert not any(isinstance(event, (Done, Failed, Cancelled)) for event in found[:-1])


def test_an_export_is_encoded_there(url: str) -> None:
    with RemoteBackend(url) as remote, LocalBackend(shlex.split(STUB)) as local:
        scene = remote.reconstruct(request(3)).result()
        assert remote.export(scene, ("ply", "stl")) == local.export(scene, ("ply", "stl"))
        with pytest.raises(OptionError):
            remote.export(scene, "exe")


@pytest.mark.parametrize(("seed", "kind"), [(666, WorkerCrashed), (667, OutOfMemoryError)])
def test_errors_keep_their_class(url: str, seed: int, kind: type[Exception]) -> None:
    with RemoteBackend(url) as remote:
        job = remote.reconstruct(request(seed))
        events = list(job)
        assert isinstance(events[-1], Failed) and any(isinstance(event, Log) for event in events)  # the first attempt was lost
        with pytest.raises(kind):
            job.result()


def test_cancel(url: str) -> None:
    with RemoteBackend(url) as remote:
        job = remote.reconstruct(request(1020))
        while not isinstance(job.poll(10), Progress):
            pass
        began = time.monotonic()
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result()
        assert time.monotonic() - began < 5


def test_close_ends_what_runs(url: str) -> None:
    remote = RemoteBackend(url)
    job = remote.reconstruct(request(1021))
    while not isinstance(job.poll(10), Progress):
        pass
    remote.close()
    assert isinstance(list(job)[-1], Cancelled)


def test_two_jobs_at_once(url: str) -> None:
    with RemoteBackend(url) as remote:
        jobs = [remote.reconstruct(request(11)), remote.reconstruct(request(12))]
        assert [job.result().seed for job in jobs] == [11, 12]


def test_start_says_who_answers(url: str) -> None:
    hello = RemoteBackend(url).start()
    assert hello.protocol == PROTOCOL and hello.engines == ("draft",)


@pytest.mark.parametrize("address", ["", "gpu-box", "ftp://x", "http://", "http://x:port", "http://user@x", "http://x?y=1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(OptionError):
        RemoteBackend(address)


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        remote = RemoteBackend(f"http://127.0.0.1:{free.getsockname()[1]}", patience=1.0)
        with pytest.raises(UnreachableError):
            remote.start()
        *said, last = remote.reconstruct(request()).__iter__()
        assert isinstance(last, Failed) and isinstance(last.error, UnreachableError)
        (log,) = said  # once, long before it gives up
        assert isinstance(log, Log) and log.level == "warning" and "can't be reached" in log.text and "Trying again" in log.text


def test_somebody_else_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UnreachableError):
            RemoteBackend(f"http://127.0.0.1:{other.getsockname()[1]}").start()
        thread.join()


def test_token(tmp_path: Path) -> None:
    with on_port(tmp_path, access=Access(token="correct horse")) as (url, _):
        with pytest.raises(DeniedError):
            RemoteBackend(url).start()
        with pytest.raises(DeniedError):
            RemoteBackend(url, "wrong").reconstruct(request()).result()
        with RemoteBackend(url, "correct horse") as remote:
            assert remote.reconstruct(request()).result().objects


def test_a_full_queue_is_waited_for_and_then_told(tmp_path: Path) -> None:
    with on_port(tmp_path, limits=replace(SMALL, max_queue=1)) as (url, server), RemoteBackend(url, patience=0.6) as remote:
        service = server.service
        jobs = [remote.reconstruct(request(1020))]
        while not isinstance(jobs[0].poll(10), Progress):
            pass
        jobs.append(remote.reconstruct(request(1021)))
        while service.store.queued() == 0:
            time.sleep(0.01)
        with pytest.raises(BusyError):
            remote.reconstruct(request(1)).result()
        patient = RemoteBackend(url, patience=30).reconstruct(request(1))
        time.sleep(0.5)
        for job in jobs:
            job.cancel()
        assert patient.result().seed == 1


def test_a_server_that_comes_back_finishes_the_job(tmp_path: Path) -> None:
    with on_port(tmp_path) as (url, server), RemoteBackend(url, patience=30) as remote:
        job = remote.reconstruct(request(1002))
        while not isinstance(job.poll(10), Progress):
            pass
        server.restart()
        assert job.result().seed == 1002


def test_cancel_while_the_server_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told when it is there again; and asked some times for that, not some thousand times."""
    calls: list[str] = []
    real = RemoteBackend._call

    def counted(self: RemoteBackend, method: str, path: str, **more: object) -> object:
        calls.append(path)
        return real(self, method, path, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(RemoteBackend, "_call", counted)
    with on_port(tmp_path) as (url, server), RemoteBackend(url, patience=30) as remote:
        job = remote.reconstruct(request(1030))
        while not isinstance(job.poll(10), Progress):
            pass
        server.stop()
        calls.clear()
        job.cancel()
        time.sleep(1.0)
        assert len(calls) < 12
        server.start()
        with pytest.raises(JobCancelled):
            job.result()
        end = time.monotonic() + 10
        while server.service.store.counts()["canceled"] != 1 and time.monotonic() < end:
            time.sleep(0.02)
        assert server.service.store.counts()["canceled"] == 1


def test_a_cancelled_job_does_not_wait_for_a_server_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfyui_sam3d.client.remote.GOODBYE", 0.5)
    with on_port(tmp_path) as (url, server), RemoteBackend(url, patience=60) as remote:
        job = remote.reconstruct(request(1030))
        while not isinstance(job.poll(10), Progress):
            pass
        server.close()
        began = time.monotonic()
        job.cancel()
        assert isinstance(list(job)[-1], Cancelled) and time.monotonic() - began < 10


def test_what_is_prepared_is_prepared_again(url: str) -> None:
    """It lies in a worker's memory: a result of yesterday would say that it is there when it isn't."""
    with RemoteBackend(url) as remote:
        for _ in range(2):
            list(remote.prepare(PrepareRequest(image=request().image)))
        jobs = [job for job in remote._ask("GET", "/api/v1/jobs?limit=200")["jobs"] if job["kind"] == "prepare"]
    assert len(jobs) >= 2 and not any(job["cached"] for job in jobs)


def test_the_environment_names_the_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_SERVER", url)
    with open_backend() as backend:
        assert isinstance(backend, RemoteBackend) and backend.reconstruct(request()).result().objects
    monkeypatch.setenv("SAM3D_SERVER", "nonsense")
    with pytest.raises(OptionError):
        open_backend()


def test_batch_on_a_server(url: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        sprite(tmp_path / "in" / f"{name}.png", shade=ord(name))
    nothing = {"SAM3D_WORKER_COMMAND": "", "SAM3D_WORKER_PYTHON": "/no/python/here"}
    ran = cli("batch", tmp_path / "in", "-o", tmp_path / "out", "--server", url, "--workers", "2", "--json", variables=nothing)
    assert ran.code == 0, ran.err + ran.out
    assert {event["name"] for event in ran.only("done")} == {"a", "b"} and (tmp_path / "out" / "a" / "model.glb").is_file()


def test_a_batch_larger_than_the_server_takes_at_once(tmp_path: Path) -> None:
    """`batch --server` sends its items one by one: neither the size of a batch nor that of the queue bounds it."""
    for n in range(7):
        sprite(tmp_path / "in" / f"{n}.png", shade=20 * n)
    nothing = {"SAM3D_WORKER_COMMAND": "", "SAM3D_WORKER_PYTHON": "/no/python/here"}
    with on_port(tmp_path / "data", limits=replace(SMALL, max_batch=2, max_queue=2)) as (url, _):
        ran = cli("batch", tmp_path / "in", "-o", tmp_path / "out", "--server", url, "--workers", "4", "--json", variables=nothing)
    assert ran.code == 0, ran.err + ran.out
    assert len(ran.only("done")) == 7


def test_prepare(url: str) -> None:
    with RemoteBackend(url) as remote:
        events = list(remote.prepare(PrepareRequest(image=request().image)))
    assert isinstance(events[-1], (Done, Failed)), events  # the stub has nothing to prepare, and may say so


def test_a_batch_leaves_attempts_to_the_server(url: str, tmp_path: Path) -> None:
    sprite(tmp_path / "in" / "a.png")
    common = ("batch", tmp_path / "in", "--server", url, "--json", "--set", "seed=667")
    ran = cli(*common, "-o", tmp_path / "out")
    assert (
        ran.code == 1 and [event["attempt"] for event in ran.only("failed")] == [1] and ran.only("failed")[0]["error"]["code"] == "E_MEMORY"
    )
    wrong = cli(*common, "-o", tmp_path / "other", "--executor", "ray")
    assert wrong.code == 2 and "--executor" in wrong.err + wrong.out
