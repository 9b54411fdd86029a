"""install.py and environment/: real environments built by uv in scratch folders, and a fake uv where the point is how uv is called."""

from __future__ import annotations

import ast
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui_sam3d.environment import build, journal, torch_build, uv

from .scratch_pack import PACK, FakeUv, ScratchPack, real_uv, user_python

posix = pytest.mark.skipif(os.name == "nt", reason="the fake uv is a POSIX script")
SILENT = "127.0.0.1:9"  # nothing listens on the discard port


@pytest.fixture
def pack(tmp_path: Path) -> ScratchPack:
    return ScratchPack(tmp_path / "a pack")  # with a space in its path, as on many a user's disk


@pytest.fixture
def fake(tmp_path: Path) -> FakeUv:
    return FakeUv(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ScratchPack:
    """One real environment, layer base. Tests may look at it, and must leave it as it is."""
    pack = ScratchPack(tmp_path_factory.mktemp("built") / "pack")
    if shutil.which("git"):
        for args in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "all"]):
            subprocess.run(["git", *args], cwd=pack.root, check=True)
    skip_without_registry(done := pack.run("install.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    return pack


def skip_without_registry(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode and "registry can't be reached" in done.stderr:
        pytest.skip("no package registry can be reached, and the package cache is cold")


# ---------------------------------------------------------------------------------------------------------------- real builds


def test_a_fresh_folder_becomes_ready(built: ScratchPack) -> None:
    record = built.journal()
    assert record["layers"] == ["base"] and record["profile"] == "cpu" and record["root"] == str(built.root)
    assert journal.state(str(built.root), ["base"]) == ("ready", "")
    count, broken = journal.audit(str(built.env))
    assert count > 1000 and broken == []
    where = "import comfyui_sam3d, numpy, scipy, PIL, rich, sys; print(comfyui_sam3d.__file__, sys.prefix, sep='|')"
    said = subprocess.run(
        [journal.env_python(str(built.env)), "-I", "-c", where], capture_output=True, text=True, check=True, cwd="/"
    ).stdout
    assert said.strip() == f"{built.root / '__init__.py'}|{built.env}"


def test_nothing_to_do_writes_nothing(built: ScratchPack) -> None:
    before = built.ready.stat()
    done = built.run("install.py")
    assert (done.returncode, done.stdout) == (0, "install: _env is ready\n")
    assert built.ready.stat() == before


def test_git_sees_no_change(built: ScratchPack) -> None:
    if not shutil.which("git"):
        pytest.skip("no git here")
    assert subprocess.run(["git", "status", "--porcelain"], cwd=built.root, capture_output=True, text=True, check=True).stdout == ""


def test_the_command_runs_inside(built: ScratchPack) -> None:
    done = built.run("sam3d.py", "version", "--json")
    said = json.loads(done.stdout)
    assert said["argv"] == ["version", "--json"] and said["prefix"] == str(built.env)
    assert done.stderr == ""


@posix
def test_killed_in_the_middle_then_ready(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    """What uv leaves when it is killed looks installed and is not. The next run, with the real uv, must end whole."""
    hanging = tmp_path / "hanging"
    process = pack.start("install.py", **fake.variables(FAKE_UV_HANG=str(hanging)))
    wait_for(hanging.exists)
    process.kill()
    process.communicate()
    os.kill(int(hanging.read_text()), signal.SIGKILL)
    assert journal.audit(str(pack.env))[1] and not pack.ready.exists()
    assert journal.state(str(pack.root), ["base"])[0] == "missing"

    skip_without_registry(done := pack.run("install.py"))
    assert done.returncode == 0, done.stderr
    assert "interrupted" in done.stdout
    assert journal.audit(str(pack.env))[1] == [] and pack.ready.exists()
    assert not list(pack.env.rglob("thing-*"))


def test_a_package_that_is_not_to_be_had(pack: ScratchPack, tmp_path: Path) -> None:
    """A mirror without our packages, and no cache: one clear error, nothing left that looks like an environment."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    done = pack.run(
        "install.py", PIP_INDEX_URL=mirror.as_uri(), PIP_EXTRA_INDEX_URL=None, PIP_FIND_LINKS=None, SAM3D_CACHE_DIR=str(tmp_path / "cache")
    )
    assert done.returncode == 3
    assert "ERROR" in done.stderr and "Traceback" not in done.stderr + done.stdout
    assert "mirror" in done.stderr
    assert not pack.env.exists()
    assert (tmp_path / "cache" / "uv").is_dir()


# ------------------------------------------------------------------------------------------------------------- how uv is called


@posix
def test_pip_variables_become_flags_and_nothing_leaks(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    done = pack.run(
        "install.py",
        **fake.variables(
            PIP_INDEX_URL="https://user:secret@mirror.example/simple",
            PIP_EXTRA_INDEX_URL="https://one.example/simple https://two.example/simple",
            PIP_FIND_LINKS=f"{tmp_path} /no/such/folder https://wheels.example/",
            PIP_CERT="/some/bundle.pem",
            SAM3D_CACHE_DIR=str(tmp_path / "cache"),
            HTTPS_PROXY="http://proxy.example:3128",
            PIP_TARGET="/elsewhere",
            PIP_NO_BINARY=":all:",
            UV_BUILD_CONSTRAINT="../nowhere.txt",
            UV_INDEX_URL="https://wrong.example/simple",
            UV_CACHE_DIR="/wrong",
            PYTHONPATH=None,
            VIRTUAL_ENV="/wrong",
            CONDA_PREFIX="/wrong",
        ),
    )
    assert done.returncode == 0, done.stderr
    venv, install = fake.calls()
    argv = install["argv"]
    assert pairs(argv, "--default-index") == ["https://user:secret@mirror.example/simple"]
    assert pairs(argv, "--index") == ["https://one.example/simple", "https://two.example/simple"]
    assert pairs(argv, "--index-strategy") == ["unsafe-best-match"]
    assert pairs(argv, "--find-links") == [str(tmp_path), "https://wheels.example/"]
    assert pairs(argv, "--only-binary") == [":all:"]
    assert pairs(argv, "--editable") == [str(pack.root)]
    for call in (venv, install):
        assert "--no-config" in call["argv"] and pairs(call["argv"], "--cache-dir") == [str(tmp_path / "cache" / "uv")]
        seen = call["env"]
        assert [key for key in seen if key.startswith("PIP_")] == []
        assert [key for key in seen if key.startswith("UV_")] == ["UV_HTTP_TIMEOUT"]
        assert not {"PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX"} & set(seen)
        assert seen["SSL_CERT_FILE"] == "/some/bundle.pem" and seen["HTTPS_PROXY"] == "http://proxy.example:3128"
    log = (pack.root / "install.log").read_text()
    assert "secret" not in log + done.stdout and "***@mirror.example" in log


def test_without_pip_variables_uv_keeps_its_defaults() -> None:
    assert uv.index_flags({}) == [] and uv.cache_flags({}) == []
    assert uv.index_flags({"PIP_INDEX_URL": "", "PIP_FIND_LINKS": " "}) == []
    assert "SSL_CERT_FILE" not in uv.child_environment({"PIP_CERT": ""})
    assert uv.child_environment({"pythonpath": "x", "uv_offline": "1"}).keys() == {"PYTHONUTF8", "UV_HTTP_TIMEOUT"}


def pairs(argv: list[str], flag: str) -> list[str]:
    return [argv[i + 1] for i, word in enumerate(argv) if word == flag]


@posix
def test_where_uv_is_looked_for(fake: FakeUv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("SAM3D_UV", str(fake.path))
    assert uv.find(str(tmp_path), said.append) == (str(fake.path), "0.13.9", "SAM3D_UV")
    for wrong in ("/no/such/uv", sys.executable, str(tmp_path)):
        monkeypatch.setenv("SAM3D_UV", wrong)
        with pytest.raises(uv.InstallError, match="SAM3D_UV is"):
            uv.find(str(tmp_path), said.append)
    monkeypatch.delenv("SAM3D_UV")
    monkeypatch.setattr(uv.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(uv.sysconfig, "get_path", lambda name: str(tmp_path / "nothing"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert uv.find(str(tmp_path), said.append).source == "PATH"
    shutil.copy(fake.path, tmp_path / "bin" / "uv")
    assert uv.find(str(tmp_path), said.append) == (str(tmp_path / "bin" / "uv"), "0.13.9", "beside Python")
    (tmp_path / "bin" / "uv").write_text("#!/bin/sh\necho uv 0.1.0\n")  # too old: the next place counts
    assert uv.find(str(tmp_path), said.append).source == "PATH"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(uv.InstallError, match="no pip"):
        uv.find(str(PACK), said.append) if not (PACK / "_tools").exists() else uv._fetch(str(copy_of_pin(tmp_path)), said.append)


def copy_of_pin(folder: Path) -> Path:
    (folder / "environment").mkdir()
    shutil.copy(PACK / "environment" / "uv.txt", folder / "environment")
    return folder


@pytest.mark.full
def test_uv_is_fetched_when_there_is_none(pack: ScratchPack) -> None:
    if subprocess.run([user_python(), "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("this Python has no pip")
    if shutil.which("uv") or (Path(user_python()).parent / uv.EXE).exists():
        pytest.skip("this machine has a uv of its own")
    skip_without_registry(done := pack.run("install.py", SAM3D_UV=None, PIP_TARGET="/elsewhere", PIP_USER="1"))
    assert done.returncode == 0, done.stderr
    assert "from _tools/uv" in done.stdout and (pack.root / "_tools" / "uv" / "bin" / uv.EXE).exists()


# ------------------------------------------------------------------------------------------------------------------ transaction


@posix
def test_a_failed_rebuild_gives_the_old_environment_back(pack: ScratchPack, fake: FakeUv) -> None:
    assert pack.run("install.py", **fake.variables()).returncode == 0
    before = pack.journal()
    with (pack.root / "environment" / "base.txt").open("a") as file:
        file.write("# changed\n")
    assert journal.state(str(pack.root), ["base"]) == ("stale", "what goes into it has changed")

    done = pack.run("install.py", **fake.variables(FAKE_UV_FAIL=json.dumps({"pip": "error: No space left on device (os error 28)"})))
    assert done.returncode == 3
    assert "The disk is full." in done.stderr and "SAM3D_CACHE_DIR" in done.stderr and "Traceback" not in done.stderr
    assert pack.journal() == before

    assert pack.run("install.py", **fake.variables()).returncode == 0
    assert pack.journal()["inputs_sha256"] != before["inputs_sha256"]
    assert sorted(path.name for path in pack.root.glob("_env*")) == ["_env"]


@posix
@pytest.mark.parametrize("moment", ["set aside", "half built", "being removed"])
def test_what_a_killed_rebuild_left_is_put_right(pack: ScratchPack, fake: FakeUv, moment: str) -> None:
    assert pack.run("install.py", **fake.variables()).returncode == 0
    before = pack.journal()
    if moment == "being removed":
        (pack.root / "_env.trash" / "bin").mkdir(parents=True)
    else:
        pack.env.rename(pack.root / "_env.prev")
    if moment == "half built":
        pack.env.mkdir()
        (pack.env / ".sam3d_building.json.tmp").write_text("{")
    done = pack.run("install.py", "--layers", "dev", **fake.variables())
    assert done.returncode == 0, done.stderr
    assert len(fake.installs()) == 2 and pack.journal()["layers"] == ["base", "dev"]
    assert before["layers"] == ["base"]
    assert sorted(path.name for path in pack.root.glob("_env*")) == ["_env"]


@posix
def test_layers_are_added_in_place(pack: ScratchPack, fake: FakeUv) -> None:
    assert pack.run("install.py", **fake.variables()).returncode == 0
    base = pack.journal()
    failed = pack.run("install.py", "--layers", "dev", **fake.variables(FAKE_UV_FAIL=json.dumps({"pip": "error: 403 Forbidden"})))
    assert failed.returncode == 3 and "refused the login" in failed.stderr
    assert pack.journal() == base  # nothing was touched, so what was ready is ready
    assert pack.run("install.py", "--layers", "dev", **fake.variables()).returncode == 0
    assert pack.journal()["layers"] == ["base", "dev"]
    assert len([call for call in fake.calls() if call["argv"][0] == "venv"]) == 1
    assert [Path(name).name for name in pairs(fake.installs()[-1], "--requirements")] == ["base.txt", "dev.txt"]
    assert pack.run("install.py", "--rebuild", **fake.variables()).returncode == 0
    assert pack.journal()["layers"] == ["base", "dev"]  # a rebuild keeps what was there


@posix
def test_a_broken_package_after_a_failed_addition_is_not_called_ready(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    assert pack.run("install.py", **fake.variables()).returncode == 0
    hanging = tmp_path / "hanging"
    (pack.env / "lib/python3.11/site-packages/thing.py").unlink()
    process = pack.start("install.py", "--layers", "dev", **fake.variables(FAKE_UV_HANG=str(hanging)))
    wait_for(hanging.exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in err
    assert not pack.ready.exists()


@posix
def test_only_what_matters_makes_it_stale(pack: ScratchPack) -> None:
    pack.pretend_ready()
    state = lambda: journal.state(str(pack.root), ["base"])[0]  # noqa: E731
    project = (pack.root / "pyproject.toml").read_text()
    assert state() == "ready"
    pack.write("pyproject.toml", project.replace("line-length = 140", "line-length = 99"))
    assert state() == "ready"
    pack.write("environment/dev.txt", "another\n")
    assert state() == "ready"
    pack.write("pyproject.toml", re.sub(r'\nversion = "[^"]+"', '\nversion = "9.9.9"', project))
    assert state() == "stale"
    pack.write("pyproject.toml", project)
    assert state() == "ready"
    assert journal.state(str(pack.root), ["base", "dev"]) == ("lacks", "it lacks dev")
    moved = pack.root.with_name("moved")
    pack.root.rename(moved)
    assert journal.state(str(moved), ["base"]) == ("stale", "the folder was moved")
    for garbage in ("", "{", "[]", '{"schema": 99}'):
        (moved / "_env" / journal.READY).write_text(garbage)
        assert journal.state(str(moved), ["base"])[0] == "missing"


@posix
def test_two_at_once_build_once(pack: ScratchPack, fake: FakeUv) -> None:
    variables = fake.variables(FAKE_UV_SECONDS="1")
    both = [pack.start("install.py", **variables), pack.start("sam3d.py", "version", **variables)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(fake.installs()) == 1
    assert sum("waiting for it" in out + err for out, err in said) == 1


@posix
def test_the_uv_of_a_killed_install_is_waited_for(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    first = pack.start("install.py", **fake.variables(FAKE_UV_HANG=str(hanging)))
    wait_for(hanging.exists)
    first.kill()
    first.wait()
    second = pack.start("install.py", **fake.variables())
    assert second.stdout is not None and "waiting for it" in second.stdout.readline()
    assert second.poll() is None
    os.kill(int(hanging.read_text()), signal.SIGKILL)
    out, _ = second.communicate(timeout=60)
    first.communicate()
    assert second.returncode == 0 and "interrupted" in out and pack.ready.exists()


@posix
def test_a_folder_that_is_not_ours_is_left_alone(pack: ScratchPack, fake: FakeUv) -> None:
    pack.write("_env/precious.txt", "mine")
    done = pack.run("install.py", **fake.variables())
    assert done.returncode == 3 and "was not made by install.py" in done.stderr and "SAM3D_WORKER_PYTHON" in done.stderr
    assert (pack.env / "precious.txt").read_text() == "mine" and fake.calls() == []


@posix
def test_a_link_to_another_disk(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    pack.env.symlink_to(tmp_path / "big disk" / "_env")
    for arguments in ([], ["--rebuild"]):
        assert pack.run("install.py", *arguments, **fake.variables()).returncode == 0
    assert pack.env.is_symlink() and (tmp_path / "big disk" / "_env" / journal.READY).exists()


@posix
def test_a_folder_that_cannot_be_written(pack: ScratchPack, fake: FakeUv) -> None:
    pack.root.chmod(0o555)
    limited = [sys.executable, "-c", DROP_RIGHTS, user_python(), str(pack.root / "install.py")]
    try:
        done = subprocess.run(
            limited, capture_output=True, text=True, env={**os.environ, **{k: v for k, v in fake.variables().items() if v}}
        )
    finally:
        pack.root.chmod(0o755)
    if done.returncode == 77:
        pytest.skip("root can't give up its right to write everywhere here")
    assert done.returncode == 3
    assert "No permission to write" in done.stderr and "Traceback" not in done.stderr


DROP_RIGHTS = """
import ctypes, os, sys
if os.geteuid() == 0:  # root writes everywhere by a capability: give it up for what is started next
    libc = ctypes.CDLL(None)
    if any(libc.prctl(24, capability, 0, 0, 0) for capability in (1, 2)):
        sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


@posix
def test_a_full_disk_is_told_before_anything_is_done(pack: ScratchPack, fake: FakeUv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_UV", str(fake.path))
    monkeypatch.setenv("FAKE_UV_LOG", str(fake.log))
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10 * 2**20))  # type: ignore[attr-defined]
    with pytest.raises(uv.InstallError, match="The disk is full: about 400 MB"):
        build.ensure(str(pack.root), ("base",), lambda line: None)
    assert fake.calls() == [] and not pack.env.exists()


def test_the_audit_sees_what_is_missing_or_cut_short(tmp_path: Path) -> None:
    site = tmp_path / ("Lib/site-packages" if os.name == "nt" else "lib/python3.11/site-packages")
    info = site / "thing-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "thing.py").write_text("abc")
    (info / "RECORD").write_text('thing.py,sha256=x,3\n"with, comma.py",,\nthing-1.0.dist-info/RECORD,,\n')
    assert journal.audit(str(tmp_path)) == (3, [str(site / "with, comma.py")])
    (site / "with, comma.py").touch()
    assert journal.audit(str(tmp_path)) == (3, [])
    (site / "thing.py").write_text("ab")
    assert journal.audit(str(tmp_path)) == (3, [str(site / "thing.py")])
    (info / "RECORD").unlink()
    assert journal.audit(str(tmp_path)) == (0, [str(info / "RECORD")])


# ------------------------------------------------------------------------------------------------------------------------ torch


@posix
def test_torch_from_a_folder_of_wheels(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    here, other = f"cp{sys.version_info[0]}{sys.version_info[1]}", "cp399"
    for version, tag in (("2.9.1+cpu", here), ("2.13.0+cpu", here), ("2.99.0+cpu", other), ("2.99.0+cu128", here), ("2.99.0", here)):
        (tmp_path / f"torch-{version}-{tag}-{tag}-linux_x86_64.whl").touch()
    done = pack.run("install.py", "--layers", "model", **fake.variables(PIP_FIND_LINKS=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    torch, layers = fake.installs()
    assert "torch==2.13.0+cpu" in torch and {"--no-deps", "--no-index"} <= set(torch)
    assert [Path(name).name for name in pairs(layers, "--requirements")] == ["base.txt", "model.txt"]
    assert "comes from a wheel in PIP_FIND_LINKS" in done.stdout and pack.journal()["torch"] == "a wheel in PIP_FIND_LINKS"
    assert pack.run("install.py", "--layers", "model,dev", **fake.variables(PIP_FIND_LINKS=str(tmp_path))).returncode == 0
    assert len(fake.installs()) == 3  # torch is there already


@pytest.fixture
def index() -> Iterator[str]:
    """An index that answers for torch, on the loopback."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/cpu/torch/" else 404)
            self.end_headers()
            self.wfile.write(b"<html></html>")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/cpu"
        server.shutdown()
        thread.join()


linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the registry's torch is the CPU build")


@linux
def test_torch_from_the_cpu_index(pack: ScratchPack, fake: FakeUv, index: str) -> None:
    pack.write("environment/torch_index.txt", f"# a comment\ncpu {index}/\n")
    done = pack.run("install.py", "--layers", "model", **fake.variables(PIP_FIND_LINKS=None, NO_PROXY="127.0.0.1"))
    assert done.returncode == 0, done.stderr
    torch, _ = fake.installs()
    assert pairs(torch, "--default-index") == [index] and any(word.startswith("torch>=") for word in torch)
    assert "comes from PyTorch's CPU index" in done.stdout


@linux
def test_torch_from_the_registry_where_nothing_else_answers(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    pack.write("environment/torch_index.txt", f"cpu http://{SILENT}/cpu\n")
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    (tmp_path / f"torch-2.13.0+cpu-{tag}-{tag}-wrong_platform.whl").touch()
    refused = json.dumps({"--no-index": "error: torch has no wheels with a matching platform tag"})
    done = pack.run(
        "install.py", "--layers", "model", **fake.variables(PIP_FIND_LINKS=str(tmp_path), FAKE_UV_FAIL=refused, NO_PROXY="127.0.0.1")
    )
    assert done.returncode == 0, done.stderr
    assert "not from a wheel in PIP_FIND_LINKS: A package has no wheel" in done.stdout
    assert "index doesn't answer" in done.stdout and "comes from the package registry" in done.stdout


def test_an_index_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(torch_build, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, says nothing
        assert not torch_build.answers(f"http://127.0.0.1:{server.getsockname()[1]}/torch/")
    assert not torch_build.answers("no address")


# ----------------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("output", "says", "network"),
    [
        ("error: failed to write: No space left on device (os error 28)", "disk is full", False),
        ("error: failed to create directory `/x`: Permission denied (os error 13)", "can't be written", False),
        ("error: Failed to fetch: `https://m.example/simple/numpy/`\n  Caused by: dns error", "can't be reached", True),
        (
            "  Caused by: client error (Connect)\n  Caused by: tcp connect error: Connection refused (os error 111)",
            "can't be reached",
            True,
        ),
        ("  Caused by: invalid peer certificate: UnknownIssuer", "certificate", True),
        ("error: HTTP status client error (401 Unauthorized) for url (https://m.example)", "refused the login", False),
        ("  hint: `torch` has no wheels with a matching Python ABI tag (e.g., `cp39`)", "no wheel", False),
        ("  x No solution found when resolving dependencies:", "don't fit together", False),
        ("something new", "uv failed (exit code 2)", False),
    ],
)
def test_what_uv_says_is_told_in_a_sentence(output: str, says: str, network: bool) -> None:
    error = uv.explain(output, 2, "install.log")
    assert says in error.message and output.splitlines()[-1].strip() in error.message
    assert error.network == network and "install.log" in error.hint


@posix
def test_no_network_means_the_cache_alone(pack: ScratchPack, fake: FakeUv) -> None:
    gone = json.dumps({"pip": "error: Failed to fetch: `x`\n  Caused by: dns error"})
    done = pack.run("install.py", **fake.variables(FAKE_UV_FAIL=gone))
    assert done.returncode == 3 and "can't be reached" in done.stderr and "HTTPS_PROXY" in done.stderr
    assert ["--offline" in argv for argv in fake.installs()] == [False, True]
    assert not pack.env.exists()


@posix
def test_wrong_usage_and_named_python(pack: ScratchPack, fake: FakeUv) -> None:
    wrong = pack.run("install.py", "--layers", "everything", **fake.variables())
    assert wrong.returncode == 2 and "base, model, dev" in wrong.stderr
    named = pack.run("install.py", **fake.variables(SAM3D_WORKER_PYTHON=sys.executable))
    assert named.returncode == 0 and "nothing is built" in named.stdout
    assert fake.calls() == []


@posix
def test_a_gpu_is_noticed(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    done = pack.run("install.py", **fake.variables(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}"))
    assert "NVIDIA GPU is seen" in done.stdout and pack.journal()["profile"] == "cpu"


def test_a_python_that_cannot_carry_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executable = tmp_path / "python"
    monkeypatch.setattr(sys, "_base_executable", str(executable), raising=False)
    assert build.base_python() == str(executable)
    (tmp_path / "python312._pth").touch()  # the embeddable Python of Windows packages
    assert build.base_python() == "3.12"
    (tmp_path / "python312._pth").unlink()
    for version in ((3, 9, 18), (3, 14, 0)):
        monkeypatch.setattr(sys, "version_info", version)
        assert build.base_python() == "3.12"


def test_old_pythons_can_read_it() -> None:
    """Syntax only: install.py and environment/ for 3.9, sam3d.py for whatever there is. And nothing but the standard library."""
    for path in (PACK / "environment").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            assert all(name.split(".")[0] in {*sys.stdlib_module_names, "uv"} for name in names), (path, names)
    ast.parse((PACK / "install.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    assert 'f"' not in (PACK / "sam3d.py").read_text(encoding="utf-8")
    ast.parse((PACK / "sam3d.py").read_text(encoding="utf-8"), feature_version=(3, 4))


# ------------------------------------------------------------------------------------------------------------------ long counts


@pytest.mark.full
@posix
def test_killed_at_any_moment_then_ready(pack: ScratchPack) -> None:
    """SIGKILL to the installer and its uv at many moments of a real build: never ready with a hole in it, and the next run always ends ready."""
    skip_without_registry(pack.run("install.py"))
    killed = 0
    for step in range(24):
        process = subprocess.Popen(
            [user_python(), str(pack.root / "install.py"), "--rebuild"],
            env={**os.environ, "SAM3D_UV": str(real_uv())},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(0.1 * (step + 1))
        killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        if pack.ready.exists():
            assert journal.audit(str(pack.env))[1] == []
        done = pack.run("install.py")
        assert done.returncode == 0, done.stderr
        assert journal.state(str(pack.root), ["base"])[0] == "ready" and journal.audit(str(pack.env))[1] == []
        assert sorted(path.name for path in pack.root.glob("_env*")) == ["_env"]
    assert killed >= 8


@pytest.mark.full
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["x86_64-manylinux_2_28", "x86_64-pc-windows-msvc", "aarch64-apple-darwin"])
def test_every_layer_resolves_with_wheels_alone(python: str, platform: str) -> None:
    files = [str(PACK / "environment" / f"{layer}.txt") for layer in journal.LAYERS]
    flags = [*uv.index_flags({k: v for k, v in os.environ.items() if k != "PIP_FIND_LINKS"}), "--only-binary", ":all:", "--no-config"]
    argv = [str(real_uv()), "pip", "compile", "--quiet", "--python-version", python, "--python-platform", platform, *flags, *files]
    done = subprocess.run(argv, capture_output=True, text=True, env=uv.child_environment(dict(os.environ)))
    if done.returncode and uv.explain(done.stderr, 1, "").network:
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr


@pytest.mark.full
@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_every_python_of_this_machine(pack: ScratchPack, version: str) -> None:
    places = [shutil.which(f"python{version}") or "", *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    python = next((p for p in places if p and not subprocess.run([p, "--version"], capture_output=True).returncode), None)
    if python is None:
        pytest.skip(f"no Python {version} here")
    done = pack.run("sam3d.py", "version", python=python)
    if version == "3.9":
        assert done.returncode == 3 and done.stderr.startswith("sam3d needs Python 3.10 to 3.13, this is 3.9.")
        return
    skip_without_registry(done)
    assert done.returncode == 0, done.stderr
    assert pack.journal()["python"].startswith(version) and json.loads(done.stdout)["prefix"] == str(pack.env)


def wait_for(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
