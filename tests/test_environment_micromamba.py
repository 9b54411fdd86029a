"""install.py through micromamba: how it is called, what its failures mean, and that whatever happens to it the environment is whole or not there.

micromamba's own executable can't be had by these tests; the fake one takes exactly its command line.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from comfyui_sam3d.environment import audit, errors, journal

from .fake_micromamba import FakeMicromamba
from .scratch_pack import FakeUv, ScratchPack, pairs, posix, user_environment, user_python, wait_for

pytestmark = posix
ENGINE = ("--engine", "micromamba")


@pytest.fixture
def mamba(tmp_path: Path) -> FakeMicromamba:
    return FakeMicromamba(tmp_path)


def test_how_it_is_called(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba, tmp_path: Path) -> None:
    variables = {
        **fake.variables(),
        **mamba.variables(),
        "SAM3D_CONDA_CHANNEL_ALIAS": "https://me:secret@mirror.example/conda/",
        "SAM3D_CACHE_DIR": str(tmp_path / "cache"),
        "CONDA_PREFIX": "/wrong",
        "MAMBA_ROOT_PREFIX": "/wrong",
        "CONDARC": "/wrong",
        "PYTHONPATH": "",
    }
    done = pack.run("install.py", *ENGINE, "--profile", "cu121", "--no-gpu-check", **variables)
    assert done.returncode == 0, done.stderr
    dry, real = mamba.calls()
    assert [word for word in dry["argv"] if word != "--dry-run"] == real["argv"] and "--dry-run" in dry["argv"]
    assert {"--yes", "--no-rc", "--no-env", "--override-channels"} <= set(real["argv"])
    assert pairs(real["argv"], "--prefix") == [str(pack.env)] and pairs(real["argv"], "--root-prefix") == [
        str(tmp_path / "cache" / "mamba")
    ]
    mirror = "https://me:secret@mirror.example/conda"
    assert pairs(real["argv"], "--channel") == [f"{mirror}/{name}" for name in ("pytorch", "pytorch3d", "nvidia", "conda-forge")]
    assert real["argv"][-7:] == [
        "python=3.10",
        "pytorch=2.4.1=py3.10_cuda12.1*",
        "torchvision=0.19.1",
        "pytorch-cuda=12.1",
        "pytorch3d=0.7.8=py310_cu121_pyt241",
        "fvcore",
        "iopath",
    ]
    seen = {key: value for key, value in real["env"].items() if key.startswith(("CONDA", "MAMBA", "PYTHONPATH"))}
    assert seen == {"CONDA_OVERRIDE_CUDA": "12.1"}  # what a machine without a GPU needs for the solve, and nothing of the user's
    install = fake.installs()[-1]
    assert [Path(name).name for name in pairs(install, "--constraints")] == ["constraints.cu121.txt"]
    assert [Path(name).name for name in pairs(install, "--requirements")] == ["base.txt", "model.txt"] and "setuptools<81" in install
    assert pack.journal()["engine"] == "micromamba" and "secret" not in done.stdout + (pack.root / "install.log").read_text()
    assert audit.audit(str(pack.env)).files == 4


def test_what_is_there_already_is_found(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba, tmp_path: Path) -> None:
    """On PATH; an existing mamba 2 has the same command line. One that is too old is not taken."""
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy(mamba.path, tools / "mamba")
    variables = {**fake.variables(), **mamba.variables(SAM3D_MICROMAMBA=None), "SAM3D_CONDA_CHANNEL_ALIAS": tmp_path.as_uri()}
    variables["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    (tmp_path / "conda-forge").mkdir()
    done = pack.run("install.py", **variables)
    assert done.returncode == 0 and f"{tools / 'mamba'}" in done.stdout, done.stderr
    assert pack.journal()["engine"] == "micromamba"
    (tools / "mamba").write_text("#!/bin/sh\necho mamba 1.5.8\n")
    done = pack.run("install.py", "--rebuild", "--offline", *ENGINE, **variables)
    assert done.returncode == 3 and "[E_OFFLINE_MISS]" in done.stderr and "SAM3D_MICROMAMBA" in done.stderr
    done = pack.run("install.py", "--rebuild", *ENGINE, **{**variables, "SAM3D_MICROMAMBA": str(tools / "mamba")})
    assert done.returncode == 3 and "which is no micromamba or mamba 2" in done.stderr
    assert pack.ready.exists()


def test_a_machine_without_uv_and_pip(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba, tmp_path: Path) -> None:
    """A bare container: the system's python3 has no pip. uv comes from conda-forge then."""
    bare = tmp_path / "bare"
    subprocess.run([user_python(), "-m", "venv", "--without-pip", str(bare)], check=True)
    put = f'if any(spec.startswith("uv") for spec in specs):\n    (prefix / "bin").mkdir(parents=True)\n    os.link("{fake.path}", prefix / "bin/uv")\n    sys.exit()\n'
    mamba.path.write_text(mamba.path.read_text().replace("site = prefix", put + "site = prefix", 1))
    variables = {**fake.variables(SAM3D_UV=None), **mamba.variables(), "PATH": "/usr/bin:/bin"}
    done = pack.run("install.py", *ENGINE, python=str(bare / "bin/python"), **variables)
    assert done.returncode == 0, done.stderr
    assert "from conda-forge" in done.stdout and mamba.calls()[0]["argv"][-1] == "uv"
    assert pack.run("install.py", *ENGINE, "--rebuild", python=str(bare / "bin/python"), **variables).returncode == 0
    assert len([call for call in mamba.calls() if call["argv"][-1] == "uv"]) == 1


def test_an_existing_conda(pack: ScratchPack, fake: FakeUv, tmp_path: Path) -> None:
    conda = tmp_path / "conda"
    made = '/bin/sh -c \'mkdir -p "$0/bin" "$0/conda-meta" "$0/lib/python3.11/site-packages"\''
    program = (
        f'#!/bin/sh\n[ "$1" = --version ] && echo conda 24.7.1 && exit\necho "$@" >> "{tmp_path}/calls"\n'
        'for word; do [ "$last" = --prefix ] && prefix=$word; last=$word; [ "$word" = --dry-run ] && exit 0; done\n'
        f'{made} "$prefix"\nln -s "{user_python()}" "$prefix/bin/python"\n'
    )
    conda.write_text(program)
    conda.chmod(0o755)
    done = pack.run(
        "install.py", "--engine", "conda", **fake.variables(CONDA_EXE=str(conda), SAM3D_CONDA_CHANNEL_ALIAS="https://mirror.example")
    )
    assert "conda 24.7, " in done.stdout, done.stderr
    dry, real = (tmp_path / "calls").read_text().splitlines()
    assert real == (
        f"create --yes --quiet --prefix {pack.env} --no-default-packages --override-channels --channel https://mirror.example/conda-forge python=3.12"
    )
    assert dry == real.replace(" python=", " --dry-run python=")
    conda.write_text(program.replace("24.7.1", "23.9.0"))
    done = pack.run("install.py", "--engine", "conda", "--rebuild", **fake.variables(CONDA_EXE=str(conda), PATH=""))
    assert done.returncode == 3 and "no conda 23.10 or later" in done.stderr and "[E_ENGINE]" in done.stderr


# what micromamba, mamba, conda and rattler print (their own words, shortened) -> our code
SAID = [
    ("error    libmamba Could not solve for environment specs\n    The following package could not be installed\n    `- pytorch 2.9 does not exist (perhaps a typo or a missing channel).", "E_NO_SOLUTION_CONDA"),
    ("PackagesNotFoundError: The following packages are not available from current channels:\n  - pytorch-cuda=12.1", "E_NO_SOLUTION_CONDA"),
    ("SolverError: Cannot solve the request because of: No candidates were found for python 3.12.*.", "E_NO_SOLUTION_CONDA"),
    ("critical libmamba Download error (6) Could not resolve hostname [https://m.example/conda-forge/linux-64/repodata.json.zst]", "E_MM_BLOCKED"),
    ("warning  libmamba Download error (28) Connection timed out, retrying\nerror    libmamba Could not solve for environment specs: nothing provides x", "E_NO_SOLUTION_CONDA"),
    ("CondaHTTPError: HTTP 000 CONNECTION FAILED for url <https://m.example>", "E_MM_BLOCKED"),
    ("GatewayError: dns error: failed to lookup address information", "E_MM_BLOCKED"),
    ("error    libmamba SSL certificate problem: self-signed certificate in certificate chain", "E_CERT"),
    ("critical libmamba [json.exception] write failed: No space left on device", "E_DISK"),
    ("critical libmamba filesystem error: cannot rename: The filename or extension is too long.", "E_PATH_TOO_LONG"),
    ("critical libmamba Permission denied: '/x/pkgs'", "E_PERM"),
    ("error    libmamba File not valid: SHA256 sum doesn't match expectation", "E_HASH"),
    ("critical libmamba something new", "E_CONDA"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code"), SAID)
def test_what_it_says_is_told_in_a_sentence(text: str, code: str) -> None:
    error = errors.explain("micromamba", text, 1, "install.log")
    assert error.code == code and text.splitlines()[-1].strip() in error.message and "install.log" in error.hint
    assert "network" not in error.hint or error.network


def test_a_failure_leaves_what_was_there(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba) -> None:
    variables = {**fake.variables(), **mamba.variables()}
    assert pack.run("install.py", *ENGINE, **variables).returncode == 0
    before = pack.journal()
    failed = pack.run("install.py", *ENGINE, "--rebuild", **variables, FAKE_MM_SAYS=SAID[0][0])
    assert failed.returncode == 3 and "[E_NO_SOLUTION_CONDA]" in failed.stderr and "Traceback" not in failed.stderr
    nothing = pack.run("install.py", *ENGINE, "--rebuild", "--keep-failed", **variables, FAKE_MM_NOTHING="1")
    assert nothing.returncode == 3 and "there is no Python in" in nothing.stderr and "is back" in nothing.stdout
    assert pack.journal() == before and sorted(path.name for path in pack.root.glob("_env*")) == ["_env"]
    broken = pack.run(
        "install.py", *ENGINE, "--rebuild", "--keep-failed", **variables, FAKE_PROBE='{"state": "broken", "version": "1", "text": "no"}'
    )
    assert broken.returncode == 3 and "[E_ENV_BROKEN]" in broken.stderr and "numpy: no" in broken.stderr
    kept = [path for path in pack.root.glob("_env*") if path != pack.env]
    assert len(kept) == 1 and kept[0].name.startswith("_env.failed-") and pack.journal() == before
    cpu = pack.run(
        "install.py",
        *ENGINE,
        "--profile",
        "cu121",
        "--no-gpu-check",
        **variables,
        FAKE_PROBE='{"state": "ok", "version": "2.4.1", "text": "cpu"}',
    )
    assert cpu.returncode == 3 and "[E_CPU_TORCH]" in cpu.stderr and pack.journal() == before


def test_another_profile_builds_anew(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba) -> None:
    """And a profile that was named stays until another one is."""
    variables = {**fake.variables(), **mamba.variables()}
    asked = [[], ["--profile", "cu121", "--no-gpu-check"], [], ["--profile", "auto"], []]
    found = []
    for arguments in asked:
        done = pack.run("install.py", *ENGINE, *arguments, **variables)
        assert done.returncode == 0, done.stderr
        found.append((pack.journal()["profile"], done.stdout[-9:] == "is ready\n" and "building" not in done.stdout))
    assert found == [("cpu", False), ("cu121", False), ("cu121", True), ("cpu", False), ("cpu", True)]


def test_a_uv_that_replaces_torch_is_caught(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba) -> None:
    """The constraints forbid it; should it happen all the same, the environment is not called ready."""
    variables = {**fake.variables(), **mamba.variables()}
    site = "lib/python3.11/site-packages"
    script = mamba.path.read_text().replace('(site / "theirs.py")', '(site / "torch-2.4.1.dist-info").mkdir()\n(site / "theirs.py")')
    mamba.path.write_text(script.replace('("bin/python", "', f'("bin/python", "{site}/torch-2.4.1.dist-info/METADATA", "').replace(
        "paths = [", f'(prefix / "{site}/torch-2.4.1.dist-info/METADATA").write_text("Name: torch")\npaths = ['
    ))  # fmt: skip
    kept = pack.run("install.py", *ENGINE, "--profile", "cu121", "--no-gpu-check", **variables)
    assert kept.returncode == 0, kept.stderr
    fake.path.write_text(
        fake.path.read_text().replace(
            '(info.parent / "thing.py")',
            '(info.parent / "torch-2.4.1.dist-info/METADATA").write_text("Name: x")\n    (info.parent / "thing.py")',
        )
    )
    done = pack.run("install.py", *ENGINE, "--profile", "cu121", "--no-gpu-check", "--rebuild", **variables)
    assert done.returncode == 3 and "[E_TORCH_REPLACED]" in done.stderr and pack.ready.exists()


# ---------------------------------------------------------------------------------------------------------------------- killed, interrupted

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from environment import commands, steps
step, rest = sys.argv[2], sys.argv[3:]
done = steps.Steps.done
def killed(self, name, **facts):
    done(self, name, **facts)
    if name == step:
        os.kill(os.getpid(), signal.SIGKILL)
steps.Steps.done = killed
sys.exit(commands.main(sys.argv[1], rest))
"""


def whole_or_missing(pack: ScratchPack) -> None:
    """Never ready with a hole in it."""
    if pack.ready.exists():
        assert audit.audit(str(pack.env)).broken == []


ALL = ["planned", "prechecked", "tool_ready", "solved", "python_done", "packages_done", "audited", "doctored", "ready"]
FEW = {("first", "python_done"), ("rebuild", "solved"), ("rebuild", "packages_done")}
CASES = [(had, step) for had in ("first", "rebuild") for step in ALL]


@pytest.mark.parametrize(("had", "step"), [pytest.param(*case, marks=() if case in FEW else pytest.mark.full) for case in CASES])
def test_killed_after_any_step(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba, had: str, step: str) -> None:
    variables = {**fake.variables(), **mamba.variables()}
    before, again = {}, had == "rebuild"
    if again:
        assert pack.run("install.py", *ENGINE, **variables).returncode == 0
        before = pack.journal()
    argv = [user_python(), "-c", KILLED, str(pack.root), step, *ENGINE, *(["--rebuild"] if again else [])]
    done = subprocess.run(argv, env=user_environment(**variables), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole_or_missing(pack)
    assert pack.run("install.py", "status", **variables).returncode == (0 if pack.ready.exists() else 1)
    # what comes next finds its way with no network at all where something finished was set aside, and by building again otherwise
    done = pack.run("install.py", *ENGINE, **variables)
    assert done.returncode == 0, done.stderr
    assert journal.state(str(pack.root), ["base"])[0] == "ready"
    whole_or_missing(pack)
    assert sorted(path.name for path in pack.root.glob("_env*")) == ["_env"]
    if again and step in ("python_done", "packages_done", "audited", "doctored"):
        assert pack.journal() == before  # it was waiting beside the half-built one


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_micromamba_works(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba, tmp_path: Path, number: int) -> None:
    variables = {**fake.variables(), **mamba.variables()}
    assert pack.run("install.py", *ENGINE, **variables).returncode == 0
    before, hanging = pack.journal(), tmp_path / "hanging"
    process = pack.start("install.py", *ENGINE, "--rebuild", **variables, FAKE_MM_HANG=str(hanging))
    wait_for(lambda: hanging.exists() and hanging.read_text())
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in err and "is back" in out
    assert not Path(f"/proc/{hanging.read_text()}").exists() or os.name != "posix"
    assert pack.journal() == before
    assert json.loads(pack.run("install.py", "status", "--json", **variables).stdout)["last_run"]["status"] == "interrupted"


def test_killed_while_micromamba_works(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba, tmp_path: Path) -> None:
    """Half a prefix has no marker of ours yet: the note of the run says whose it is. And its child is waited for."""
    hanging = tmp_path / "hanging"
    variables = {**fake.variables(), **mamba.variables()}
    process = pack.start("install.py", *ENGINE, **variables, FAKE_MM_HANG=str(hanging))
    wait_for(lambda: hanging.exists() and hanging.read_text())
    process.kill()
    process.communicate()
    busy = pack.run("install.py", *ENGINE, "--no-wait", **variables)
    assert busy.returncode == 75 and "[E_LOCKED]" in busy.stderr
    os.kill(int(hanging.read_text()), signal.SIGKILL)
    time.sleep(0.1)
    assert pack.env.is_dir() and not list(pack.env.glob(".sam3d*"))
    for step in ("planned", "solved"):  # killed again before it came to building: the remains are still known to be ours, or gone
        subprocess.run([user_python(), "-c", KILLED, str(pack.root), step, *ENGINE], env=user_environment(**variables), capture_output=True)
    done = pack.run("install.py", *ENGINE, **variables)
    assert done.returncode == 0, done.stderr
    whole_or_missing(pack)


def test_killed_while_a_layer_is_added(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba, tmp_path: Path) -> None:
    """The next run builds anew, and forgets neither the layers nor the profile that were there."""
    variables = {**fake.variables(), **mamba.variables()}
    assert pack.run("install.py", *ENGINE, "--profile", "cu121", "--no-gpu-check", "--layers", "video", **variables).returncode == 0
    hanging = tmp_path / "hanging"
    process = pack.start("install.py", "--layers", "dev", "--no-gpu-check", **{**variables, "FAKE_UV_HANG": str(hanging)})
    wait_for(lambda: hanging.exists() and hanging.read_text())
    process.kill()
    process.communicate()
    os.kill(int(hanging.read_text()), signal.SIGKILL)
    assert not pack.ready.exists()
    done = pack.run("install.py", *ENGINE, "--no-gpu-check", **variables)
    assert done.returncode == 0 and "interrupted" in done.stdout, done.stderr
    record = pack.journal()
    assert (record["layers"], record["profile"], record["asked"]) == (["base", "model", "video"], "cu121", "cu121")


def test_two_at_once(pack: ScratchPack, fake: FakeUv, mamba: FakeMicromamba) -> None:
    variables = {**fake.variables(FAKE_UV_SECONDS="1"), **mamba.variables()}
    both = [pack.start("install.py", *ENGINE, **variables) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(mamba.calls()) == 2 and len(fake.installs()) == 1  # a dry run and a real one, of one of them
