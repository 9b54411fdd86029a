"""`sam3d serve` as a user starts it, with the real draft engine behind it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.contract.images import read_image
from comfyui_sam3d.factory.cli import serve
from PIL import Image

from . import server_process
from .factory_cli import cli, command, environment, here, sprite
from .server_app import encoded, upload
from .server_process import Served


def test_what_serve_refuses_to_start_with(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = cli("serve", "--no-build", "--port", taken.getsockname()[1], "--data", tmp_path / "data")
        assert ran.code == 2 and "--port" in ran.err and not (tmp_path / "data").exists()
    ran = cli("serve", "--no-build", "--port", "0", "--data", tmp_path / "data", variables={"SAM3D_TOKEN": "short"})
    assert ran.code == 2 and "8 to 500" in ran.err
    ran = cli("serve", "--no-build", "--port", "0", "--gpus", "0,,1", "--data", tmp_path / "data")
    assert ran.code == 2 and "GPU" in ran.err
    (tmp_path / "file").write_text("no folder")
    ran = cli("serve", "--no-build", "--port", "0", "--data", tmp_path / "file")
    assert ran.code == 1 and "E_" in ran.err and "Traceback" not in ran.err


def test_a_taken_port_is_said_before_the_page_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "build_page", lambda quiet: pytest.fail("the page was built first"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = here("serve", "--port", taken.getsockname()[1], "--data", tmp_path / "data", capsys=capsys)
    assert ran.code == 2 and "--port" in ran.err and not (tmp_path / "data").exists()


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """From now on servers of this test may open so many files: soft and hard limit."""
    pytest.importorskip("resource")

    def limit(soft: int, hard: int) -> None:
        lowered = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
        monkeypatch.setattr(server_process, "command", lambda *args: ["sh", "-c", lowered, "sh", *command(*args)])

    return limit


def test_the_server_asks_for_more_open_files(tmp_path: Path, few_files: Callable[[int, int], None]) -> None:
    import psutil

    few_files(200, 4096)
    with Served(tmp_path) as served, ExitStack() as open_ones:
        assert served.call("GET", "/info")[1]["limits"]["max_connections"] == 800
        assert psutil.Process(served.pid).rlimit(psutil.RLIMIT_NOFILE)[0] > 2 * 800
        for _ in range(300):
            open_ones.enter_context(closing(socket.create_connection(address_of(served))))
        assert served.call("GET", "/healthz")[0] == 200


def address_of(served: Served) -> tuple[str, int]:
    return "127.0.0.1", int(served.url.rsplit(":", 1)[1])


def test_more_connections_than_files_are_refused_in_words(tmp_path: Path, few_files: Callable[[int, int], None]) -> None:
    """Each of 300 downloads at once begins, or is told why not; the server goes on."""
    few_files(256, 256)
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    with Served(tmp_path) as served:
        most = served.call("GET", "/info")[1]["limits"]["max_connections"]
        assert 20 < most < 128
        id = upload(served.url, encoded(noise, compress_level=0))[1]["id"]
        heard: list[bytes] = []
        with ExitStack() as open_ones:

            def ask() -> None:
                one = open_ones.enter_context(closing(socket.create_connection(address_of(served), timeout=20)))
                one.sendall(f"GET /api/v1/images/{id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                answer = b""
                while b"\r\n\r\n" not in answer or (answer.startswith(b"HTTP/1.1 503") and not answer.endswith(b"}")):
                    answer += (part := one.recv(4096))
                    assert part, answer
                heard.append(answer)

            threads = [threading.Thread(target=ask) for _ in range(300)]
            os.kill(served.pid, signal.SIGSTOP)  # so that all of them stand before its door at once
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            os.kill(served.pid, signal.SIGCONT)
            for thread in threads:
                thread.join()
            taken = [answer for answer in heard if answer.startswith(b"HTTP/1.1 200 ")]
            refused = [answer for answer in heard if b'"E_BUSY"' in answer and b"connections are open" in answer]
            assert len(heard) == len(taken) + len(refused) == 300 and most - 2 <= len(taken) <= most
        end = time.monotonic() + 10
        while True:  # until it has noticed that they are gone
            try:
                status = served.call("GET", "/healthz")[0]
            except OSError:
                status = 0
            if status == 200 or time.monotonic() > end:
                break
        assert status == 200 and "Traceback" not in served.log and "256 files" in served.log, served.log


def test_too_few_open_files_are_said(tmp_path: Path, few_files: Callable[[int, int], None]) -> None:
    few_files(64, 64)
    ran = subprocess.run(
        server_process.command("serve", "--no-build", "--port", "0", "--data", tmp_path), env=environment(), capture_output=True, text=True
    )
    assert ran.returncode == 3 and "open 64 files" in ran.stderr and "ulimit" in ran.stderr and "Traceback" not in ran.stderr


def test_the_draft_through_the_server_is_the_draft_of_the_command_line(tmp_path: Path) -> None:
    picture = sprite(tmp_path / "disc.png", size=64)
    settings = {"quality": "fast", "seed": 3}
    token = "a-token-of-the-studio"
    with Served(tmp_path, stub=False, variables={"SAM3D_TOKEN": token}) as served:
        status, _ = served.call("GET", "/info")
        assert status == 401
        bearer = {"Authorization": f"Bearer {token}"}
        mask = (read_image(picture).alpha >= 128).astype(int).tolist()  # type: ignore[operator]
        rgb = tmp_path / "rgb.png"
        Image.open(picture).convert("RGB").save(rgb)
        body = {
            "image": {"type": "base64", "value": base64.b64encode(rgb.read_bytes()).decode()},
            "mask_input": mask,
            "mask_kind": "bitmap",
            "params": settings,
        }
        status, told = served.call("POST", "/reconstruct", body, bearer)
        assert status == 200 and told["engine"] == "draft", told
        # nodes and command line find the server by the environment, and give the same bytes as a local worker
        remote = {"SAM3D_SERVER": served.url, "SAM3D_TOKEN": token, "SAM3D_WORKER_PYTHON": "/no/python/here"}
        options = ("--quality", "fast", "--seed", "3", "-f", "glb,ply")
        there = cli("reconstruct", picture, "-o", tmp_path / "there", *options, stub=False, variables=remote)
        assert there.code == 0, there.err
        here = cli("reconstruct", picture, "-o", tmp_path / "here", *options, stub=False)
        assert here.code == 0, here.err
        for name in ("model.glb", "splat.ply"):
            one, other = ((tmp_path / side / "disc" / name).read_bytes() for side in ("here", "there"))
            assert hashlib.sha256(one).digest() == hashlib.sha256(other).digest(), name
        doctor = cli("doctor", "--json", "-o", tmp_path / "out", stub=False, variables=remote)
        assert doctor.code == 0, doctor.out
        checks = {check["name"]: check for check in json.loads(doctor.out)["checks"]}
        assert served.url in checks["environment"]["text"] and checks["reconstruction"]["state"] == "ok"
        denied = cli("reconstruct", picture, "-o", tmp_path / "denied", stub=False, variables={**remote, "SAM3D_TOKEN": "wrong-token"})
        assert denied.code == 1 and "E_DENIED" in denied.err and not (tmp_path / "denied" / "disc").exists()
        assert token not in served.log
        assert served.kill(signal.SIGTERM) in (0, -signal.SIGTERM)
