"""What every item would meet - a full disk, a server that is gone - stops a batch, and the next run goes on there; what isn't done is said."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from comfyui_sam3d.client.remote import RemoteBackend

from factory_cli import STUB, Ran, here, rows, sprite, states


@pytest.fixture
def batch(tmp_path, capsys, monkeypatch):
    """Runs `batch in --out out --json ...` in this process, over the stub's worker process."""
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)
    (tmp_path / "in").mkdir()

    def run(*arguments: object, json: bool = True) -> Ran:
        told = ["--json"] if json else []
        return here("batch", tmp_path / "in", "--out", tmp_path / "out", "-f", "glb", *told, *arguments, capsys=capsys)

    return run


@pytest.fixture
def full_disk(monkeypatch):
    """From the second result on, writing files fails as on a full disk, until it is called."""
    from comfyui_sam3d.factory import output

    real, written = output._write, []

    def write(path, data):
        written.append(path)
        if len(written) > 2:  # model.glb and meta.json of the first
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    monkeypatch.setattr(output, "_write", write)
    return lambda: monkeypatch.setattr(output, "_write", real)


def test_a_full_disk_stops_the_batch_and_the_next_run_goes_on(batch, tmp_path, full_disk):
    """Each further item would be minutes of work for nothing; and what failed by the disk isn't the item's doing."""
    for name in ("a", "b", "c", "d"):
        sprite(tmp_path / "in" / f"{name}.png")
    ran = batch()
    assert ran.code == 1 and states(ran) == {"a": "made", "b": "E_OUTPUT"}
    assert {key: ran.only("end")[0][key] for key in ("made", "failed", "left")} == {"made": 1, "failed": 1, "left": 2}
    assert any("stopped: the others" in e["text"] for e in ran.only("log"))
    full_disk()
    assert [e["name"] for e in batch("--dry-run").only("plan") if e["state"] == "make"] == ["b", "c", "d"]
    ran = batch()
    assert ran.code == 0 and states(ran) == {"a": "there", "b": "made", "c": "made", "d": "made"}


def test_a_server_that_is_gone_stops_the_batch(batch, tmp_path, monkeypatch):
    monkeypatch.setattr(RemoteBackend.__init__, "__kwdefaults__", {"timeout": 5.0, "patience": 0.4})
    for name in ("a", "b", "c"):
        sprite(tmp_path / "in" / f"{name}.png")
    monkeypatch.setenv("SAM3D_SERVER", "")  # the option sets it: put back afterwards
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ran = batch("--server", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert ran.code == 1 and states(ran) == {"a": "E_UNREACHABLE"} and ran.only("end")[0]["left"] == 2
    monkeypatch.setenv("SAM3D_SERVER", "")
    assert set(states(batch()).values()) == {"made"}


def test_what_failed_earlier_says_so(batch, tmp_path):
    sprite(tmp_path / "in" / "a.png")
    rows(tmp_path / "in", {"image": "a.png", "name": "memory", "seed": 667})
    first, second = batch("--retries", 0, json=False), batch(json=False)
    assert "earlier run" not in first.err and "memory: error E_MEMORY" in second.err
    assert "in an earlier run" in second.err and "--retry-failed" in second.err


def test_a_folder_without_pictures_is_no_riddle(batch, tmp_path):
    sprite(tmp_path / "in" / "deeper" / "a.png")
    ran = batch(json=False)
    assert ran.code == 0 and "no picture" in ran.err and "--recursive" in ran.err
    assert "--only" in batch("--recursive", "--only", "z*", json=False).err
    assert states(batch("--recursive")) == {"a": "made"}
