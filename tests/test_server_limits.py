"""Too much, too slow, too long: uploads at once, slow clients, the queue, time, disk and age (docs/server.md, "What is kept out")."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from comfyui_sam3d.contract.errors import JobCancelled, Sam3dError, StorageError
from comfyui_sam3d.contract.frames import encode_frame
from comfyui_sam3d.contract.messages import Export, Hello, to_wire
from comfyui_sam3d.contract.request import ExportOptions, ReconstructRequest
from comfyui_sam3d.contract.scene import Mesh, Scene, SceneObject
from comfyui_sam3d.contract.version import PROTOCOL, VERSION
from comfyui_sam3d.factory.server import work
from comfyui_sam3d.factory.server.keeper import tidy
from comfyui_sam3d.factory.server.limits import MIB
from comfyui_sam3d.factory.server.protocol import protocol
from fastapi.testclient import TestClient

from .server_app import SMALL, V1, encoded, error, on_port, post_image, send_image, send_job, server, upload, wait


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with server(tmp_path_factory.mktemp("server")) as found:
        yield found


def test_more_uploads_at_once_than_allowed(tmp_path: Path) -> None:
    """Each of 24 parallel uploads is stored, or answered 429 with the whole answer, although its body was still under way."""
    rng = np.random.default_rng(0)
    pictures = [encoded(rng.integers(0, 256, (300, 300, 3), np.uint8), compress_level=0) for _ in range(24)]
    found: list[tuple[int, dict[str, object]]] = []
    with on_port(tmp_path, limits=replace(SMALL, max_uploads=2)) as (url, _):
        threads = [threading.Thread(target=lambda data=data: found.append(upload(url, data))) for data in pictures]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 24 and {status for status, _ in found} <= {201, 429}
    assert any(status == 201 for status, _ in found)
    for status, body in found:
        assert "id" in body if status == 201 else body["error"]["code"] == "E_BUSY"  # type: ignore[index]


def said(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    found = b""
    connection.settimeout(10)
    while part := connection.recv(65536):
        found += part
    return found


def test_a_refusal_is_there_at_once_and_outlives_the_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is cut off while it sends would never read why; one that waits with its body hears it before that."""
    monkeypatch.setattr("comfyui_sam3d.factory.server.gate.DRAIN_AT_ONCE", 0.05)
    with on_port(tmp_path, limits=SMALL) as (url, _):
        size = SMALL.max_body + 2 * MIB
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
            client.sendall(f"POST {V1}/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
            client.settimeout(5)
            heard = b""
            while not heard.endswith(b"}"):  # head and body may come in two pieces
                heard += (part := client.recv(65536))
                assert part, heard
            assert heard.startswith(b"HTTP/1.1 413 ") and b"connection: close" in heard.lower()
            for _ in range(4):
                time.sleep(0.2)
                client.sendall(bytes(size // 4))
            client.sendall(bytes(size % 4))
            assert client.recv(1) == b""  # an orderly end, no reset


def test_slow_clients_are_let_go(tmp_path: Path) -> None:
    limits = replace(SMALL, head_time=0.4, body_silence=0.4, body_time=0.9)
    with on_port(tmp_path, limits=limits) as (url, _):
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        with socket.create_connection(address) as silent, socket.create_connection(address) as dripping:
            dripping.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127")
            for connection in (silent, dripping):
                answer = said(connection)
                assert b" 408 " in answer and b"E_TIME_LIMIT" in answer
        head = b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        with socket.create_connection(address) as stuck:
            stuck.sendall(head)
            answer = said(stuck)
            assert answer.startswith(b"HTTP/1.1 408 ") and b"E_TIME_LIMIT" in answer
        with socket.create_connection(address) as dripping:
            dripping.sendall(head)
            began = time.monotonic()
            try:
                for _ in range(60):
                    dripping.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                pass
            assert b"E_TIME_LIMIT" in said(dripping) or time.monotonic() - began < 3
        with socket.create_connection(address) as kept:  # a connection that is kept has the same time for its next head
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            time.sleep(0.1)
            kept.sendall(b"GET /heal")
            assert said(kept).count(b"HTTP/1.1 ") == 2


def test_who_does_not_take_an_answer_is_let_go(tmp_path: Path) -> None:
    """Else each would hold a connection and a file for ever."""
    noise = np.random.default_rng(0).integers(0, 256, (2500, 2500, 3), np.uint8)
    with on_port(tmp_path, limits=replace(SMALL, answer_silence=0.5)) as (url, _):
        id = upload(url, encoded(noise, compress_level=0))[1]["id"]
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as idle:
            idle.sendall(f"GET {V1}/images/{id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(2)
            taken = 0
            try:
                taken = len(said(idle))
            except ConnectionError:
                pass
            assert taken < noise.nbytes
        with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)) as slow:
            slow.request("GET", f"{V1}/images/{id}")
            answer = slow.getresponse()
            found = 0
            while part := answer.read(1 << 21):
                found += len(part)
                time.sleep(0.2)
            assert found == int(answer.headers["content-length"]) > noise.nbytes


@contextmanager
def answering(size: int, silence: float) -> Iterator[tuple[socket.socket, uvicorn.Server]]:
    """A client of a server that answers with so many bytes in one piece; both with small buffers of their own."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(size).encode())]})
        await send({"type": "http.response.body", "body": bytes(size)})

    with closing(socket.create_server(("127.0.0.1", 0))) as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 13)
        server = uvicorn.Server(uvicorn.Config(app, http=protocol(replace(SMALL, answer_silence=silence)), lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 13)
            client.settimeout(10)
            client.connect(listener.getsockname())
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            yield client, server
        finally:
            server.should_exit = True
            thread.join(10)


def test_who_takes_a_large_answer_slowly_gets_it() -> None:
    """One that is given in one piece, as JSON with files in base64 is: it waits in memory, and the client takes it as fast as it can."""
    with answering(MIB, 0.4) as (slow, _):
        found = 0
        while part := slow.recv(1 << 15, socket.MSG_WAITALL):
            found += len(part)
            time.sleep(0.05)
        assert found > MIB


def test_who_leaves_the_last_bytes_is_let_go() -> None:
    """They are fewer than the event loop calls a full buffer, and the server has closed already: else the connection would be open for ever."""
    with answering(48 << 10, 0.4) as (idle, server):
        assert len(idle.recv(100)) == 100
        end = time.monotonic() + 5
        while server.server_state.connections and time.monotonic() < end:
            time.sleep(0.05)
        assert not server.server_state.connections


def test_http_that_is_none(tmp_path: Path) -> None:
    with on_port(tmp_path) as (url, _):
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        for text in (b"\x16\x03\x01\x02\0\x01\0\x01", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n"):
            with socket.create_connection(address) as connection:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                try:
                    said(connection)
                except ConnectionError:
                    pass
        with socket.create_connection(address) as connection:
            connection.sendall(b"\x16\x03\x01\x02\0\x01\0\x01")
            assert refusal(said(connection)) == (400, "E_OPTION")
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b'"ok"' in said(connection)


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and code of a whole answer, which has the body and the headers of all errors."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().splitlines()
    assert {"content-type: application/json", "x-content-type-options: nosniff", f"content-length: {len(body)}"} <= set(lines), lines
    problem = json.loads(body)["error"]
    assert set(problem) == {"code", "message", "hint"} and problem["message"] and problem["hint"]
    return int(lines[0].split()[1]), problem["code"]


def test_connections_are_counted(tmp_path: Path) -> None:
    with on_port(tmp_path, limits=replace(SMALL, max_connections=3)) as (url, _):
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        open_ones = [socket.create_connection(address) for _ in range(3)]
        time.sleep(0.1)
        with socket.create_connection(address) as beyond:
            answer = said(beyond)
            assert refusal(answer) == (503, "E_BUSY") and b"retry-after: " in answer
        open_ones.pop().close()
        time.sleep(0.1)
        with socket.create_connection(address) as next_one:
            next_one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b'"ok"' in said(next_one)
        for one in open_ones:
            one.close()


class Stubborn:
    """A backend whose exports only end with its worker."""

    def __init__(self, environment: object) -> None:
        self.closed, self.exports = threading.Event(), 0

    def start(self) -> Hello:
        return Hello(PROTOCOL, VERSION, 1, "", ("draft",))

    def export(self, *_: object) -> dict[str, bytes]:
        self.closed.clear()
        self.exports += 1
        if not self.closed.wait(20):
            return {"model.glb": b"late"}
        raise JobCancelled("The backend was closed.")

    def close(self) -> None:
        self.closed.set()


def export_frame(*objects: SceneObject) -> bytes:
    message = Export(1, Scene(objects=objects, engine="none"), ("glb",), ExportOptions())
    return b"".join(bytes(part) for part in encode_frame(*to_wire(message)))


@pytest.mark.parametrize("end", ["time", "cancel"])
def test_an_export_has_its_time_and_can_be_cancelled(tmp_path: Path, end: str) -> None:
    limits = replace(SMALL, job_time=0.5 if end == "time" else 60.0)
    with server(tmp_path, limits=limits, open_backend=Stubborn) as client:
        began = time.monotonic()
        answer = client.post(f"{V1}/frames", content=export_frame(), headers={"Content-Type": "application/octet-stream"})
        assert answer.status_code == 201, answer.text
        if end == "cancel":
            wait(client, answer.json()["id"], ("running",))
            assert client.post(f"{V1}/jobs/{answer.json()['id']}/cancel").status_code == 202
        job = wait(client, answer.json()["id"])
        assert time.monotonic() - began < 10 and job["attempts"] == 1
        if end == "time":
            assert job["status"] == "failed" and job["error"]["code"] == "E_TIME_LIMIT" and "--job-time" in job["error"]["hint"]
        else:
            assert job["status"] == "canceled"


def test_the_server_stops_in_the_middle_of_an_export(tmp_path: Path) -> None:
    """The job goes back into the queue, and the attempt isn't counted."""
    with server(tmp_path, open_backend=Stubborn) as client:
        answer = client.post(f"{V1}/frames", content=export_frame(), headers={"Content-Type": "application/octet-stream"})
        wait(client, answer.json()["id"], ("running",))
        began = time.monotonic()
    assert time.monotonic() - began < 10
    with server(tmp_path, open_backend=Stubborn, limits=replace(SMALL, job_time=0.3)) as client:
        assert wait(client, answer.json()["id"])["attempts"] == 1


def test_a_batch_beyond_the_limit_says_what_to_do(tmp_path: Path) -> None:
    with server(tmp_path, limits=replace(SMALL, max_batch=3)) as client:
        image = send_image(client, alpha=True)["id"]
        found = error(client.post(f"{V1}/batches", json={"items": [{"image_id": image}] * 4}), 422, "E_OPTION")
        assert "4 items" in found["message"] and "3" in found["message"] and "several batches" in found["hint"]
        assert client.post(f"{V1}/batches", json={"items": [{"image_id": image}] * 3}).status_code == 201
    with server(tmp_path / "short", limits=replace(SMALL, max_queue=2)) as client:  # it would be told to come again for ever
        image = send_image(client, alpha=True)["id"]
        error(client.post(f"{V1}/batches", json={"items": [{"image_id": image}] * 3}), 422, "E_OPTION")


def test_the_queue_pushes_back(tmp_path: Path) -> None:
    with server(tmp_path, limits=replace(SMALL, max_queue=2)) as client:
        first = send_job(client, params={"seed": 1020})
        wait(client, first["id"], ("running",))
        for n in range(2):
            send_job(client, params={"seed": n})
        answer = client.post(f"{V1}/jobs", json={"image_id": first["image_id"]})
        error(answer, 429, "E_BUSY")
        assert int(answer.headers["retry-after"]) >= 1
        client.post(f"{V1}/jobs/{first['id']}/cancel")


def test_a_job_has_its_time(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        wait(client, send_job(client)["id"])  # what a worker loads at its first job isn't timed
        for slot in client.app.state.service.dispatcher.slots:  # type: ignore[attr-defined]
            slot._limits = replace(SMALL, job_time=1.5)
        job = wait(client, send_job(client, params={"seed": 1020})["id"])
        assert job["status"] == "failed" and job["error"]["code"] == "E_TIME_LIMIT" and job["attempts"] == 1
        assert wait(client, send_job(client, params={"seed": 1})["id"])["status"] == "succeeded"  # the worker works on


def test_the_share_of_the_disk(tmp_path: Path) -> None:
    with server(tmp_path, limits=replace(SMALL, quota=40_000)) as client:
        rng = np.random.default_rng(0)
        image = send_image(client, alpha=True)
        job = wait(client, send_job(client, image_id=image["id"])["id"])
        assert job["status"] == "succeeded"
        error(post_image(client, encoded(rng.integers(0, 256, (150, 150, 3), np.uint8))), 507, "E_STORAGE")
        service = client.app.state.service  # type: ignore[attr-defined]
        with pytest.raises(StorageError):
            service.vault.check_room(1 << 50)
        before = service.vault.used()
        client.delete(f"{V1}/jobs/{job['id']}")
        tidy(service.store, service.vault, replace(SMALL, keep_files=-1.0))
        assert service.vault.used() < before and not list((tmp_path / "results").iterdir())


def test_old_jobs_go_with_their_files(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        old = wait(client, send_job(client, params={"seed": 1})["id"])
        kept = send_job(client, params={"seed": 1020})
        wait(client, kept["id"], ("running",))
        later = time.time() + 40 * 86400
        assert tidy(service.store, service.vault, service.limits, later) == 1
        error(client.get(f"{V1}/jobs/{old['id']}"), 404, "E_NOT_FOUND")
        assert client.get(f"{V1}/images/{kept['image_id']}").status_code == 200  # a job that runs still needs it
        client.post(f"{V1}/jobs/{kept['id']}/cancel")
        wait(client, kept["id"])
        tidy(service.store, service.vault, service.limits, later + 80 * 86400)
        assert service.vault.used() == 0 and not list(tmp_path.glob("images/*/*.png"))


def test_a_job_that_runs_does_not_hold_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[weakref.ref[np.ndarray]] = []

    def watched(**fields: Any) -> ReconstructRequest:
        sent.append(weakref.ref(fields["masks"].base))  # who owns the numbers
        return ReconstructRequest(**fields)

    monkeypatch.setattr(work, "ReconstructRequest", watched)
    with server(tmp_path) as client:
        job = send_job(client, params={"seed": 1020})
        wait(client, job["id"], ("running",))
        end = time.monotonic() + 5
        while sent[0]() is not None and time.monotonic() < end:
            time.sleep(0.02)
        assert sent[0]() is None and client.get(f"{V1}/jobs/{job['id']}").json()["status"] == "running"
        client.post(f"{V1}/jobs/{job['id']}/cancel")


def test_the_pictures_of_jobs_fit_together_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all workers' jobs: each waits until another one's are sent, and not until that one ends. Calls share it, and who waits can be cancelled."""
    sent: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def watched(**fields: Any) -> ReconstructRequest:
        alive.append(sum(one() is not None for one in sent))
        sent.append(weakref.ref(fields["masks"].base))
        time.sleep(0.1)
        return ReconstructRequest(**fields)

    monkeypatch.setattr(work, "ReconstructRequest", watched)
    with server(tmp_path, limits=replace(SMALL, memory=5000), workers=3) as client:
        image = send_image(client, alpha=True)["id"]  # it wants nearly all, as each job does
        jobs = [send_job(client, image_id=image, params={"seed": 1020 + n})["id"] for n in range(3)]
        for job in jobs:
            wait(client, job, ("running",))
        assert alive == [0, 0, 0]
        for job in jobs:
            client.post(f"{V1}/jobs/{job}/cancel")
            wait(client, job)
        with client.app.state.service._memory.take(1000):  # type: ignore[attr-defined]
            job = send_job(client, image_id=image)["id"]
            wait(client, job, ("starting",))
            time.sleep(0.3)
            assert client.post(f"{V1}/jobs/{job}/cancel").status_code == 202
            assert wait(client, job)["status"] == "canceled" and len(sent) == 3
        assert wait(client, send_job(client, image_id=image)["id"])["status"] == "succeeded"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a caller's frame holds what it gave")
def test_an_export_that_runs_does_not_hold_its_scene(tmp_path: Path) -> None:
    """Else nothing large could be done beside it."""

    class Sent(Stubborn):
        def export(self, scene: Scene, *_: object) -> dict[str, bytes]:
            assert scene.objects[0].mesh is not None
            del scene
            return super().export()

    mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.uint32))
    with server(tmp_path, limits=replace(SMALL, memory=10), open_backend=Sent) as client:
        frame = export_frame(SceneObject("a", mesh))
        answer = client.post(f"{V1}/frames", content=frame, headers={"Content-Type": "application/octet-stream"})
        wait(client, answer.json()["id"], ("running",))
        image = threading.Thread(target=send_image, args=(client,))
        image.start()
        image.join(5)
        assert not image.is_alive() and client.get(f"{V1}/jobs/{answer.json()['id']}").json()["status"] == "running"
        client.post(f"{V1}/jobs/{answer.json()['id']}/cancel")
        wait(client, answer.json()["id"])


def test_one_server_for_each_folder(tmp_path: Path) -> None:
    with server(tmp_path) as _, pytest.raises(Sam3dError, match="in use"), server(tmp_path):
        pass


def test_segmentations_that_wait_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One works, and nobody may line up hundreds behind it."""
    from comfyui_sam3d.factory.segment.desk import Desk

    free = threading.Event()

    def slow(*_: object) -> list[object]:
        free.wait(10)
        return []

    monkeypatch.setattr(Desk, "predict", slow)
    with server(tmp_path, limits=replace(SMALL, max_segments=3)) as client:
        url = f"{V1}/images/{send_image(client)['id']}/segment"
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(client.post(url, json={}).status_code)) for _ in range(8)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 5
        while found.count(429) < 5 and time.monotonic() < end:
            time.sleep(0.01)
        free.set()
        for thread in threads:
            thread.join()
    assert sorted(found) == [200] * 3 + [429] * 5
