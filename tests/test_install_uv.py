"""How install.py finds and calls uv, what it makes of uv's errors, and where torch comes from: seen through a fake uv."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui_sam3d.environment import download, errors, process, uv

from .scratch_pack import PACK, FakeUv, ScratchPack, pairs, posix, skip_without_registry, user_python

SILENT = "127.0.0.1:9"  # nothing listens on the discard port
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the registry's torch is the CPU build")


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
    assert pairs(argv, "--default-index") == [] and "secret" not in " ".join(argv), "a login in the list of processes"
    assert install["env"]["UV_DEFAULT_INDEX"] == "https://user:secret@mirror.example/simple"
    assert pairs(argv, "--index") == ["https://one.example/simple", "https://two.example/simple"]
    assert pairs(argv, "--index-strategy") == ["unsafe-best-match"]
    assert pairs(argv, "--find-links") == [str(tmp_path), "https://wheels.example/"]
    assert pairs(argv, "--only-binary") == [":all:"]
    assert pairs(argv, "--editable") == [str(pack.root)]
    for call in (venv, install):
        assert "--no-config" in call["argv"] and pairs(call["argv"], "--cache-dir") == [str(tmp_path / "cache" / "uv")]
        seen = call["env"]
        assert [key for key in seen if key.startswith("PIP_")] == []
        ours = {"UV_HTTP_TIMEOUT", *(["UV_DEFAULT_INDEX"] if call is install else [])}
        assert {key for key in seen if key.startswith("UV_")} == ours
        assert not {"PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX"} & set(seen)
        assert seen["SSL_CERT_FILE"] == "/some/bundle.pem" and seen["HTTPS_PROXY"] == "http://proxy.example:3128"
    log = (pack.root / "install.log").read_text()
    assert "secret" not in log + done.stdout and "***@mirror.example" in log


def test_addresses_with_a_login_are_no_words() -> None:
    words = ["uv", "--index", "https://a.example", "--index", "https://me:s3@b.example", "--find-links", "/wheels", "numpy"]
    assert uv.discreet(words) == (["uv", "--find-links", "/wheels", "numpy"], {"UV_INDEX": "https://a.example https://me:s3@b.example"})
    assert uv.discreet(words[:3]) == (words[:3], {})
    assert (
        process.mask("see https://me:p@ss@b.example/simple, https://c.example/a@1")
        == "see https://***@b.example/simple, https://c.example/a@1"
    )


def test_without_pip_variables_uv_keeps_its_defaults() -> None:
    assert uv.index_flags({}) == [] and uv.cache_flags({}) == []
    assert uv.index_flags({"PIP_INDEX_URL": "", "PIP_FIND_LINKS": " "}) == []
    assert "SSL_CERT_FILE" not in process.child_environment({"PIP_CERT": ""})
    assert process.child_environment({"pythonpath": "x", "uv_offline": "1"}).keys() == {"PYTHONUTF8", "UV_HTTP_TIMEOUT"}


@posix
def test_where_uv_is_looked_for(fake: FakeUv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("SAM3D_UV", str(fake.path))
    assert uv.find(str(tmp_path), said.append) == (str(fake.path), "0.13.9", "SAM3D_UV")
    for wrong in ("/no/such/uv", sys.executable, str(tmp_path)):
        monkeypatch.setenv("SAM3D_UV", wrong)
        with pytest.raises(errors.InstallError, match="SAM3D_UV is"):
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
    with pytest.raises(errors.InstallError, match="no pip"):
        uv.find(str(PACK), said.append) if not (PACK / "_tools").exists() else uv._fetch(
            str(copy_of_pin(tmp_path)), said.append, offline=False
        )


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


# ----------------------------------------------------------------------------------------------------------------------------- what uv says


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
    error = errors.explain("uv", output, 2, "install.log")
    assert says in error.message and output.splitlines()[-1].strip() in error.message
    assert error.network == network and "install.log" in error.hint


@posix
def test_no_network_means_the_cache_alone(pack: ScratchPack, fake: FakeUv) -> None:
    gone = json.dumps({"pip": "error: Failed to fetch: `x`\n  Caused by: dns error"})
    done = pack.run("install.py", **fake.variables(FAKE_UV_FAIL=gone))
    assert done.returncode == 3 and "can't be reached" in done.stderr and "HTTPS_PROXY" in done.stderr
    assert ["--offline" in argv for argv in fake.installs()] == [False, True]
    assert not pack.env.exists()


# ------------------------------------------------------------------------------------------------------------------------------------ torch


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


@linux
def test_torch_from_the_cpu_index(pack: ScratchPack, fake: FakeUv, index: str) -> None:
    done = pack.run(
        "install.py", "--layers", "model", **fake.variables(PIP_FIND_LINKS=None, SAM3D_TORCH_INDEX=index + "/", NO_PROXY="127.0.0.1")
    )
    assert done.returncode == 0, done.stderr
    torch, _ = fake.installs()
    assert pairs(torch, "--default-index") == [index] and any(word.startswith("torch>=") for word in torch)
    assert "comes from PyTorch's CPU index" in done.stdout


@linux
def test_torch_from_the_registry_where_nothing_else_answers(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    (tmp_path / f"torch-2.13.0+cpu-{tag}-{tag}-wrong_platform.whl").touch()
    refused = json.dumps({"--no-index": "error: torch has no wheels with a matching platform tag"})
    done = pack.run(
        "install.py",
        "--layers",
        "model",
        **fake.variables(
            PIP_FIND_LINKS=str(tmp_path), FAKE_UV_FAIL=refused, SAM3D_TORCH_INDEX=f"http://{SILENT}/cpu", NO_PROXY="127.0.0.1"
        ),
    )
    assert done.returncode == 0, done.stderr
    assert "not from a wheel in PIP_FIND_LINKS: A package has no wheel" in done.stdout
    assert "index doesn't answer" in done.stdout and "comes from the package registry" in done.stdout


def test_an_index_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(download, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, says nothing
        assert not download.answers(f"http://127.0.0.1:{server.getsockname()[1]}/torch/")
    assert not download.answers("no address")
