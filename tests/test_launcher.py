"""sam3d.py: what it starts, that it becomes it, and what it says when it can't."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_sam3d.environment import launch
from comfyui_sam3d.environment.errors import InstallError
from comfyui_sam3d.environment.settings import Settings
from comfyui_sam3d.factory import page_build

from .scratch_pack import PACK, ScratchPack, user_environment, user_python

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the ready environment of these tests is a POSIX script")


@pytest.fixture
def pack(tmp_path: Path) -> ScratchPack:
    """A pack whose `_env/` is ready; importing the builder fails, so that a test notices when it is loaded for nothing."""
    pack = ScratchPack(tmp_path / "pack")
    pack.pretend_ready(("base", "model", "video", "server", "ray", "modal", "dev"))
    pack.write("environment/build.py", "raise SystemExit('a warm start must not load the builder')\n")
    return pack


@pytest.fixture
def command(pack: ScratchPack) -> ScratchPack:
    """The same, with an environment whose comfyui_sam3d is the scratch pack's own."""
    site = pack.root / "site"
    site.mkdir()
    (site / "comfyui_sam3d").symlink_to(pack.root)
    # -I is what the launcher passes; this script puts the stub's folder back on the path
    code = f"import sys, runpy; sys.path.insert(0, {str(site)!r}); sys.argv = ['cli', *sys.argv[2:]]; runpy.run_module('comfyui_sam3d.factory.cli', run_name='__main__')"
    (pack.env / "bin" / "python").write_text(
        f'#!/bin/sh\n[ "$*" = "" ] && exit 1\nfor w; do [ "$w" = "-m" ] && break; shift; done\nshift\nexec "{sys.executable}" -I -c "{code}" "$@"\n'
    )
    return pack


def test_arguments_folder_and_exit_code_pass_through(command: ScratchPack, tmp_path: Path) -> None:
    done = command.run("sam3d.py", "reconstruct", "a b.png", "--out", "x", cwd=tmp_path, STUB_EXIT="7")
    said = json.loads(done.stdout)
    assert done.returncode == 7 and done.stderr == ""
    assert said["argv"] == ["reconstruct", "a b.png", "--out", "x"] and said["cwd"] == str(tmp_path.resolve())


def test_it_becomes_the_command(command: ScratchPack) -> None:
    """The same process, so signals arrive where they belong."""
    process = command.start("sam3d.py", "batch", "--wait")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["pid"] == process.pid
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def test_what_is_started(pack: ScratchPack) -> None:
    (pack.env / "bin" / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@" "PYTHONPATH=$PYTHONPATH" "$PWD"\n')
    said = pack.run("sam3d.py", "doctor", cwd=Path("/"), PYTHONPATH="/elsewhere").stdout.splitlines()
    assert said == ["-I", "-X", "utf8", "-m", "comfyui_sam3d.factory.cli", "doctor", "PYTHONPATH=", "/"]
    said = pack.run("sam3d.py", "test", "tests/test_masks.py", "-x", cwd=Path("/")).stdout.splitlines()
    assert said == ["-m", "pytest", "tests/test_masks.py", "-x", "PYTHONPATH=", str(pack.root)]
    for arguments, more in (([], ["-n", "logical", "--maxprocesses=4", "--dist=loadfile"]), (["--full"], ["--full"])):
        said = pack.run("sam3d.py", "test", *arguments).stdout.splitlines()
        assert "--cov" in said and said[-3 - len(more) : -2] == ["--cov-report=term:skip-covered", *more]


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 18), (3, 14, 0)])
def test_another_python_gets_a_sentence(pack: ScratchPack, version: tuple[int, ...]) -> None:
    code = f"import sys, runpy; sys.version_info = {version}; sys.argv = ['sam3d.py', 'version']; runpy.run_path('sam3d.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=pack.root, capture_output=True, text=True)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.startswith("sam3d needs Python 3.10 to 3.13, this is") and done.stderr.count("\n") == 1


def test_failure_to_build_is_a_sentence(tmp_path: Path) -> None:
    done = ScratchPack(tmp_path / "pack").run("sam3d.py", "version", SAM3D_UV="/no/such/uv")
    assert done.returncode == 3 and done.stdout == ""
    assert "ERROR SAM3D_UV is /no/such/uv" in done.stderr and "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------------------ SAM3D_WORKER_PYTHON


def test_a_named_python_is_used_and_nothing_is_built(tmp_path: Path) -> None:
    pack = ScratchPack(tmp_path / "pack")
    named = tmp_path / "python"
    named.write_text(f'#!/bin/sh\n[ "$4" = "-m" ] && echo "started $*" && exit 5\nexec "{sys.executable}" "$@"\n')
    named.chmod(0o755)
    done = pack.run("sam3d.py", "version", SAM3D_WORKER_PYTHON=str(named))
    assert (done.returncode, done.stdout) == (5, "started -I -X utf8 -m comfyui_sam3d.factory.cli version\n")
    assert not pack.env.exists()


def test_a_named_python_without_the_pack(tmp_path: Path) -> None:
    pack = ScratchPack(tmp_path / "pack")
    subprocess.run([user_python(), "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    bare = tmp_path / "bare" / "bin" / "python"
    done = pack.run("sam3d.py", "version", SAM3D_WORKER_PYTHON=str(bare))
    assert done.returncode == 3
    assert "lacks: comfyui_sam3d" in done.stderr and f'"{bare}" -m pip install -r environment/base.txt -e .' in done.stderr
    done = pack.run("sam3d.py", "test", SAM3D_WORKER_PYTHON=str(bare))
    assert done.returncode == 3 and "pytest" in done.stderr and "dev.txt" in done.stderr


def test_a_named_python_that_is_something_else(tmp_path: Path) -> None:
    done = ScratchPack(tmp_path / "pack").run("sam3d.py", "version", SAM3D_WORKER_PYTHON="true")
    assert done.returncode == 3 and "SAM3D_WORKER_PYTHON is true, which is no Python" in done.stderr


@pytest.mark.parametrize("named", ["/no/such/python", "no-such-python-on-path"])
def test_a_named_python_that_is_not_there(tmp_path: Path, named: str) -> None:
    done = ScratchPack(tmp_path / "pack").run("sam3d.py", "version", SAM3D_WORKER_PYTHON=named)
    assert done.returncode == 3 and f"SAM3D_WORKER_PYTHON is {named}" in done.stderr and "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------------------------------- the gate


GATED = """
[tool.pytest.ini_options]
addopts = "-q"
[tool.coverage.run]
source = ["."]
omit = ["environment/*", "*.py"]
parallel = true
patch = ["subprocess", "_exit"]
[tool.coverage.report]
fail_under = 95
"""


@pytest.fixture
def tested(tmp_path: Path) -> ScratchPack:
    pack = ScratchPack(tmp_path / "pack")
    pack.write("pyproject.toml", GATED.replace('omit = ["environment/*", "*.py"]', 'include = ["lib/*"]').replace('source = ["."]\n', ""))
    pack.write("lib/part.py", "import os, sys\nif len(sys.argv) > 1:\n    a = 1\n    b = 2\n    c = 3\nos._exit(0)\n")
    pack.write(
        "tests/test_it.py",
        "import subprocess, sys\n"
        "def test_some(): assert subprocess.run([sys.executable, 'lib/part.py']).returncode == 0\n"
        "def test_rest(): assert subprocess.run([sys.executable, 'lib/part.py', 'x']).returncode == 0\n",
    )
    return pack


def test_the_gate_counts_child_processes_and_can_fail(tested: ScratchPack) -> None:
    """Also children that end by os._exit, as a worker does. pytest's own closing line stays the last one."""
    passed = tested.run("sam3d.py", "test", SAM3D_WORKER_PYTHON=sys.executable)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "Required test coverage of 95.0% reached" in passed.stdout
    assert passed.stdout.splitlines()[-1].startswith("2 passed in ")

    chosen = tested.run("sam3d.py", "test", "-k", "some", SAM3D_WORKER_PYTHON=sys.executable)
    assert chosen.returncode == 0 and "coverage" not in chosen.stdout
    assert chosen.stdout.splitlines()[-1].startswith("1 passed, 1 deselected in ")

    tests = (tested.root / "tests" / "test_it.py").read_text()
    tested.write("tests/test_it.py", tests.rpartition("def")[0])
    missed = tested.run("sam3d.py", "test", SAM3D_WORKER_PYTHON=sys.executable)
    assert missed.returncode != 0
    assert "Required test coverage of 95.0% not reached" in missed.stdout
    assert missed.stdout.splitlines()[-1].startswith("1 passed in ")


def test_the_gate_of_this_pack() -> None:
    """What .ci/run calls is the README's command, and pyproject.toml holds the limit and the scope that the gate reads."""
    assert "exec python3 sam3d.py test\n" in (PACK / ".ci" / "run").read_text()
    assert os.access(PACK / ".ci" / "run", os.X_OK)
    code = "import coverage; c = coverage.Coverage(config_file='pyproject.toml').config; print(c.fail_under, *c.source_pkgs, *c.patch)"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=PACK, env=user_environment(), capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(said[0]) >= 95
    assert {"comfyui_sam3d.contract", "comfyui_sam3d.client", "comfyui_sam3d.worker", "subprocess", "_exit"} == set(said[1:])


def test_the_page_is_built_with_a_node_of_ours_where_there_is_none(
    pack: ScratchPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(pack.root)
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    pack.write("factory/web/package.json", "{}")
    shutil.rmtree(pack.root / "factory" / "web" / "dist", ignore_errors=True)
    assert launch._layers(root, ["serve"]) == ("base", "server", "node")
    assert launch._layers(root, ["serve", "--no-build"]) == ("base", "server")
    for name in ("npm", "node"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    for version in ("v22.12.0", "v20.19.1", "v24.0.0", "v22.11.9", "v21.7.3", "v20.18.0", "v18.19.1", "v9.9.9", ""):
        (tools / "node").write_text(f"#!/bin/sh\necho {version}\n")
        fit = page_build._will_do(str(tools / "node"))
        assert fit == (version in ("v22.12.0", "v20.19.1", "v24.0.0"))
        assert launch._layers(root, ["serve"]) == (("base", "server") if fit else ("base", "server", "node"))
    (tools / "npm").unlink()
    pack.write("factory/web/dist/index.html", "built")
    assert launch._layers(root, ["serve"]) == ("base", "server")
    assert "node" not in launch._layers(root, ["test"])


def test_a_server_starts_without_node_where_it_can_not_be_had(
    pack: ScratchPack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind a wall, say: the page is then a plain form, and what is ready stays in use."""

    def unreachable(root: str, settings: Settings, say: object) -> None:
        raise InstallError("E_NETWORK", "It can't be reached.", "Check the network.")

    monkeypatch.setattr("comfyui_sam3d.environment.transaction.ensure", unreachable)
    assert launch._env_python(str(pack.root), ("base", "server", "node")) == str(pack.env / "bin" / "python")
    said = capsys.readouterr().err
    assert "WARNING It can't be reached." in said and "plain form" in said and "ERROR" not in said
    shutil.rmtree(pack.env)
    assert launch._env_python(str(pack.root), ("base", "server", "node")) is None
    assert "ERROR It can't be reached." in capsys.readouterr().err
