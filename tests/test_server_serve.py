"""`sam3d serve` as a user starts it, with the real draft engine behind it."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
from pathlib import Path

import pytest
from comfyui_sam3d.contract.images import read_image
from comfyui_sam3d.factory.cli import serve
from PIL import Image

from .factory_cli import cli, here, sprite
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
