"""Which command starts the worker, and what of the host reaches it."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.client import LocalBackend, State, interpreter, open_backend, reconstruct, winjob
from comfyui_sam3d.client.group import ChildGroup
from comfyui_sam3d.contract.errors import SetupError
from comfyui_sam3d.tests.zoo.keeper import ZOO, ask


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAM3D_WORKER_COMMAND", raising=False)
    monkeypatch.delenv("SAM3D_WORKER_PYTHON", raising=False)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def pack(root: Path, *, journal: bool, python: bool) -> Path:
    """An `_env` in some state."""
    if journal or python:
        (root / "_env" / "bin").mkdir(parents=True)
    if journal:
        (root / "_env" / interpreter.READY).write_text("{}")
    if python:
        (root / "_env" / "bin" / "python").symlink_to(sys.executable)
    return root


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("journal", "python", "words"), [(False, False, "isn't there"), (False, True, "isn't finished"), (True, False, "isn't finished")]
)
def test_an_environment_that_is_not_ready(journal: bool, python: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "PACK", pack(tmp_path, journal=journal, python=python))
    with open_backend() as backend:
        for call in (backend.start, lambda: backend.reconstruct(ask("tame"))):
            with pytest.raises(SetupError, match=words) as caught:
                call()
            assert "install.py" in caught.value.hint
            assert backend.state is State.DEAD


def test_a_ready_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "PACK", pack(tmp_path, journal=True, python=True))
    command = interpreter.worker_command()
    assert command == [str(tmp_path / "_env" / "bin" / "python"), "-I", "-X", "utf8", "-m", "comfyui_sam3d.worker"]


@pytest.mark.usefixtures("no_process")
def test_a_named_python_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_WORKER_PYTHON", "/nonexistent/python")
    with pytest.raises(SetupError, match="SAM3D_WORKER_PYTHON"), open_backend() as backend:
        backend.reconstruct(ask("tame"))


@pytest.mark.usefixtures("no_process")
def test_a_command_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", "python 'worker.py")
    with pytest.raises(SetupError, match="SAM3D_WORKER_COMMAND"), open_backend() as backend:
        backend.reconstruct(ask("tame"))


def test_the_command_line_in_words() -> None:
    assert interpreter._split("ssh box 'a b' worker", windows=False) == ["ssh", "box", "a b", "worker"]
    assert interpreter._split(r'"C:\Program Files\x.exe" -m worker', windows=True) == [r"C:\Program Files\x.exe", "-m", "worker"]


def test_a_named_command_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing that a host's Python has set for itself, or has lying about in its folder, reaches the worker."""
    monkeypatch.setenv("SAM3D_WORKER_PYTHON", "/nonexistent/python")
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", shlex.join([sys.executable, str(ZOO)]))
    with open_backend() as backend:
        assert backend.reconstruct(ask("tame", 3)).result().seed == 3


def test_a_hosts_own_variables_and_folder_do_not_reach_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PYTHONPATH and a current folder full of modules that break everything they shadow."""
    for name in ("numpy", "json", "queue", "comfyui_sam3d"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM3D_WORKER_PYTHON", sys.executable)
    monkeypatch.setattr(interpreter, "WORKER", (*interpreter.WORKER[:3], str(ZOO)))  # -I -X utf8, then the zoo
    with open_backend() as backend:
        got = backend.reconstruct(ask("cwd_and_path")).result().parameters
    assert str(tmp_path) not in got["path"] and "" not in got["path"]
    assert {"PYTHONNOUSERSITE", "PYTHONUTF8"} <= set(got["variables"]) and got["utf8"] == 1
    assert not {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"} & set(got["variables"])


def test_the_real_worker_says_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_WORKER_PYTHON", sys.executable)
    with open_backend() as backend:
        hello = backend.start()
        assert "draft" in hello.engines and hello.python.startswith("3.")
        if "sam3d" not in hello.engines:
            with pytest.raises(SetupError, match="isn't in this version"):
                backend.reconstruct(ask("tame", engine="sam3d")).result()


def test_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", shlex.join([sys.executable, str(ZOO)]))
    scene = reconstruct(np.zeros((4, 4, 3), np.uint8), np.ones((1, 4, 4), bool), names=("tame",), seed=9)
    assert scene.seed == 9


def test_a_backend_adds_variables() -> None:
    with LocalBackend([sys.executable, str(ZOO)], environment={"PYTHONSAFEPATH": "1"}) as backend:
        got = backend.reconstruct(ask("cwd_and_path")).result().parameters
    assert "PYTHONSAFEPATH" in got["variables"]


# -- the group of processes


def test_a_group_is_never_signalled_after_it_was_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id may belong to somebody else by then."""
    group = ChildGroup([sys.executable, "-c", "pass"], dict(os.environ))
    for stream in (group.stdin, group.stdout, group.stderr):
        stream.close()
    while not group.exited():
        pass
    assert os.waitid(os.P_PID, group.pid, os.WEXITED | os.WNOWAIT) is not None, "not waited for yet"
    assert group.reap() == 0 and group.exited()
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("signalled"))
    group.kill()
    group.release()
    group.release()


def test_a_forked_copy_lets_go() -> None:
    """What runs in the copy, run here: our ends are closed, the process is left to the original."""
    group = ChildGroup([sys.executable, "-c", "import sys; sys.stdin.read()"], dict(os.environ))
    lifeline = group._lifeline
    group._let_go()
    assert all(stream.closed for stream in (group.stdin, group.stdout, group.stderr))
    if lifeline is not None:
        with pytest.raises(OSError):
            os.fstat(lifeline)
    assert group.exited(), "not its own"
    assert os.waitpid(group.pid, 0)[1] == 0, "it has read the end"
    group.release()


def test_a_child_that_somebody_else_has_waited_for() -> None:
    group = ChildGroup([sys.executable, "-c", "pass"], dict(os.environ))
    for stream in (group.stdin, group.stdout, group.stderr):
        stream.close()
    os.waitpid(group.pid, 0)
    assert group.exited() and group.reap() == 0
    group.release()


def test_the_layout_of_windows_structures() -> None:
    """On 64 bits, as winnt.h has them; the calls themselves run on Windows alone."""
    if ctypes.sizeof(ctypes.c_void_p) == 8:
        assert ctypes.sizeof(winjob.BasicLimits) == 64
        assert ctypes.sizeof(winjob.ExtendedLimits) == 144
        assert (winjob.BasicLimits.LimitFlags.offset, winjob.BasicLimits.Affinity.offset) == (16, 48)


def test_windows_exit_codes() -> None:
    from comfyui_sam3d.client.obituary import explain
    from comfyui_sam3d.contract.errors import WorkerCrashed

    assert "exit code 0xC0000005 (a native library crashed)" in explain(0xC0000005, "", WorkerCrashed, 1).message


@pytest.mark.parametrize("layout", ["Scripts", ""])
def test_windows_interpreters(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    python = tmp_path / layout / "python.exe"
    python.parent.mkdir(exist_ok=True)
    python.touch()
    assert interpreter.env_python(tmp_path) == python
