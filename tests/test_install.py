"""install.py on real environments that uv builds in scratch folders, and what it needs and takes: its usage, Pythons, a GPU."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from comfyui_sam3d.environment import audit, errors, host, journal, process, uv

from .scratch_pack import PACK, FakeUv, ScratchPack, pairs, posix, real_uv, skip_without_registry, wait_for


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


def test_a_fresh_folder_becomes_ready(built: ScratchPack) -> None:
    record = built.journal()
    assert record["layers"] == ["base"] and record["profile"] == "cpu" and record["root"] == str(built.root)
    assert journal.state(str(built.root), ["base"]) == ("ready", "")
    count, broken = audit.audit(str(built.env))
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


def test_the_doctor_of_a_real_environment(built: ScratchPack) -> None:
    done = built.run("install.py", "doctor", "--json")
    examined = json.loads(done.stdout)
    states = {check["name"]: check["state"] for check in examined["checks"]}
    assert done.returncode == examined["exit"] == 0
    assert states == dict.fromkeys(("journal", "pack", "numpy", "scipy", "pillow", "click", "rich", "files"), "ok")


def test_status_in_words(built: ScratchPack) -> None:
    done = built.run("install.py", "status")
    assert done.returncode == 0 and re.search(r"^last run: [^ ]+, ready$", done.stdout, re.M), done.stdout


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
    assert audit.audit(str(pack.env))[1] and not pack.ready.exists()
    assert journal.state(str(pack.root), ["base"])[0] == "missing"

    skip_without_registry(done := pack.run("install.py"))
    assert done.returncode == 0, done.stderr
    assert "interrupted" in done.stdout
    assert audit.audit(str(pack.env))[1] == [] and pack.ready.exists()
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


# ------------------------------------------------------------------------------------------------------------------------ usage and Pythons


@posix
def test_wrong_usage_and_named_python(pack: ScratchPack, fake: FakeUv) -> None:
    wrong = pack.run("install.py", "--layers", "everything", **fake.variables())
    assert wrong.returncode == 2 and "base, model, video, server, node, ray, modal, dev" in wrong.stderr and "[E_USAGE]" in wrong.stderr
    named = pack.run("install.py", **fake.variables(SAM3D_WORKER_PYTHON=sys.executable))
    assert named.returncode == 0 and "nothing is built" in named.stdout
    assert fake.calls() == []


def test_a_python_that_cannot_carry_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executable = tmp_path / "python"
    monkeypatch.setattr(sys, "_base_executable", str(executable), raising=False)
    here = host.look()
    assert here.python == sys.version_info[:2] and not here.embedded
    assert host.base_python(here) == host.base_python(here, f"{here.python[0]}.{here.python[1]}") == str(executable)
    assert host.base_python(here, "3.99") == "3.99"  # a profile whose wheels are for another Python
    (tmp_path / "python312._pth").touch()  # the embeddable Python of Windows packages
    assert host.look().embedded and host.base_python(host.look()) == ">=3.10,<3.14"
    for version in ((3, 9), (3, 14)):
        assert host.base_python(here._replace(python=version)) == ">=3.10,<3.14"


FOR_CHILDREN = {
    "rattler_child.py": ["rattler"],
    "probes.py": ["numpy", "torch", "torchvision", "pytorch3d", "spconv", "xformers"],
}  # run by other Pythons


def test_old_pythons_can_read_it() -> None:
    """Syntax only: install.py and environment/ for 3.9, sam3d.py for whatever there is. And nothing but the standard library."""
    for path in (PACK / "environment").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            assert all(name.split(".")[0] in {*sys.stdlib_module_names, "uv", *FOR_CHILDREN.get(path.name, ())} for name in names), (
                path,
                names,
            )
    ast.parse((PACK / "install.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    assert 'f"' not in (PACK / "sam3d.py").read_text(encoding="utf-8")
    ast.parse((PACK / "sam3d.py").read_text(encoding="utf-8"), feature_version=(3, 4))


# ------------------------------------------------------------------------------------------------------------------------------ long counts


@pytest.mark.full
@posix
def test_killed_at_any_moment_then_ready(pack: ScratchPack) -> None:
    """SIGKILL to the installer and its uv at many moments of a real build: never ready with a hole in it, and the next run always ends ready."""
    skip_without_registry(pack.run("install.py"))
    killed = 0
    for step in range(24):
        process = pack.start("install.py", "--rebuild")
        time.sleep(0.1 * (step + 1))
        killed += process.poll() is None
        for child in (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        ):  # uv is in a session of its own
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.communicate()
        if pack.ready.exists():
            assert audit.audit(str(pack.env))[1] == []
        done = pack.run("install.py")
        assert done.returncode == 0, done.stderr
        assert journal.state(str(pack.root), ["base"])[0] == "ready" and audit.audit(str(pack.env))[1] == []
        assert sorted(path.name for path in pack.root.glob("_env*")) == ["_env"]
    assert killed >= 8


@pytest.mark.full
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["x86_64-manylinux_2_28", "x86_64-pc-windows-msvc", "aarch64-apple-darwin"])
def test_every_layer_resolves_with_wheels_alone(python: str, platform: str) -> None:
    files = [str(PACK / "environment" / f"{layer}.txt") for layer in journal.LAYERS]
    flags = [*uv.index_flags({k: v for k, v in os.environ.items() if k != "PIP_FIND_LINKS"}), "--only-binary", ":all:", "--no-config"]
    argv = [str(real_uv()), "pip", "compile", "--quiet", "--python-version", python, "--python-platform", platform, *flags, *files]
    done = subprocess.run(argv, capture_output=True, text=True, env=process.child_environment(dict(os.environ)))
    if done.returncode and errors.explain("uv", done.stderr, 1, "").network:
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr


def python_of_version(version: str) -> str:
    places = [shutil.which(f"python{version}") or "", *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    python = next((p for p in places if p and not subprocess.run([p, "--version"], capture_output=True).returncode), None)
    if python is None:
        pytest.skip(f"no Python {version} here")
    return python


@posix
@pytest.mark.parametrize(
    "version", ["3.9", *(pytest.param(version, marks=pytest.mark.full) for version in ("3.10", "3.11", "3.12")), "3.13"]
)
def test_every_host_python_runs_the_installer(pack: ScratchPack, fake: FakeUv, version: str) -> None:
    """As ComfyUI-Manager does, with the host's Python and no terminal, through every command; warnings are errors."""
    python = python_of_version(version)
    variables = fake.variables(PYTHONWARNINGS="error")
    wanted = {"plan": 0, "status": 1, "doctor": 2, "install": 0, "repair": 0, "uninstall": 0}
    for command, code in wanted.items():
        done = pack.run("install.py", command, *(["--json"] if command in ("plan", "status", "doctor") else []), python=python, **variables)
        assert done.returncode == code and done.stderr == "", (command, done.stdout, done.stderr)
        assert not done.stdout.startswith("{") or json.loads(done.stdout)
    venv = fake.calls()[0]["argv"]
    assert (
        pairs(venv, "--python") == [">=3.10,<3.14"] if version == "3.9" else os.path.isabs(pairs(venv, "--python")[0])
    )  # 3.9 can't carry it: uv finds one


@pytest.mark.full
@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_every_python_of_this_machine(pack: ScratchPack, version: str) -> None:
    python = python_of_version(version)
    done = pack.run("sam3d.py", "version", python=python)
    if version == "3.9":
        assert done.returncode == 3 and done.stderr.startswith("sam3d needs Python 3.10 to 3.13, this is 3.9.")
        return
    skip_without_registry(done)
    assert done.returncode == 0, done.stderr
    assert pack.journal()["python"].startswith(version) and json.loads(done.stdout)["prefix"] == str(pack.env)
