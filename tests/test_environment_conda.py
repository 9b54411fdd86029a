"""install.py with a real conda solver on real channels in a folder, and with the real uv: the profile cu121, the profile cpu, what can't be solved."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_sam3d.environment import audit, journal

from .conda_channel import VERSION, CondaChannels
from .scratch_pack import PACK, ScratchPack, skip_without_registry

pytest.importorskip("rattler")
pytest.importorskip("rattler_build")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the channels hold packages for Linux"),
    pytest.mark.skipif(
        sys.version_info >= (3, 13), reason="the classic set's numpy has no wheel for this Python, which is the one in the channels"
    ),
]


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> CondaChannels:
    made = CondaChannels(tmp_path_factory.mktemp("channels"))
    made.build()
    return made


def scratch(folder: Path, **constraints: str) -> ScratchPack:
    """A pack whose conda Python is the one in the channels."""
    pack = ScratchPack(folder)
    for name in ("environment.yml", "environment.cpu.yml"):
        text = (pack.root / "environment" / name).read_text()
        pack.write(f"environment/{name}", re.sub(r"python=3\.\d+", f"python={VERSION}", text))
    return pack


@pytest.fixture(scope="module")
def classic(channels: CondaChannels, tmp_path_factory: pytest.TempPathFactory) -> ScratchPack:
    """The profile cu121 as it is promised: seven packages by conda, the rest by uv. Tests may look at it, and must leave it as it is."""
    pack = scratch(tmp_path_factory.mktemp("classic") / "a päck")
    skip_without_registry(done := pack.run("install.py", *CLASSIC, SAM3D_CONDA_CHANNEL_ALIAS=channels.url))
    assert done.returncode == 0, done.stdout + done.stderr
    return pack


CLASSIC = ("--profile", "cu121", "--engine", "rattler", "--no-gpu-check")


def test_the_classic_set(classic: ScratchPack) -> None:
    record = classic.journal()
    assert (record["profile"], record["asked"], record["engine"], record["torch"]) == ("cu121", "cu121", "rattler", "conda")
    assert record["layers"] == ["base", "model"] and record["python"].startswith(VERSION)
    conda = {path.name.rsplit("-", 2)[0] for path in (classic.env / "conda-meta").glob("*.json")}
    assert conda == {"python", "pytorch", "torchvision", "pytorch-cuda", "pytorch3d", "fvcore", "iopath"}
    count, broken = audit.audit(str(classic.env))
    assert count > 2000 and broken == []
    code = "import sys, numpy, scipy, torch, safetensors, comfyui_sam3d; print(sys.prefix, numpy.__version__, torch.__version__, torch.__file__, sep='|')"
    said = subprocess.run([str(classic.env / "bin/python"), "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    site = classic.env / f"lib/python{VERSION}/site-packages"
    assert said == f"{classic.env}|1.26.4|2.4.1|{site}/torch/__init__.py"


def test_condas_torch_is_kept(classic: ScratchPack) -> None:
    """uv sees it, counts it as installed, and the constraints leave it no choice."""
    assert (classic.env / f"lib/python{VERSION}/site-packages/torch-2.4.1.dist-info/INSTALLER").read_text() == "conda\n"
    log = (classic.root / "install.log").read_text()
    assert "+ numpy==1.26.4" in log and "torch==" not in log.replace("+ numpy", "").partition("Installed")[2]
    assert "solved 7 packages" in log and "linked 7 packages" in log


def test_nothing_to_do(classic: ScratchPack, channels: CondaChannels) -> None:
    before = classic.ready.stat()
    done = classic.run("install.py", *CLASSIC, SAM3D_CONDA_CHANNEL_ALIAS=channels.url)
    assert (done.returncode, done.stdout) == (0, "install: _env is ready\n") and classic.ready.stat() == before
    # nor without a word of the profile: one that was asked for stays
    assert classic.run("install.py", SAM3D_CONDA_CHANNEL_ALIAS=channels.url).stdout == "install: _env is ready\n"
    assert classic.run("sam3d.py", "version").returncode == 0 and classic.ready.stat() == before


@pytest.mark.full
def test_another_environment_file_builds_anew(channels: CondaChannels, tmp_path: Path) -> None:
    pack = scratch(tmp_path / "pack")
    options = ("--engine", "rattler")
    skip_without_registry(pack.run("install.py", *options, SAM3D_CONDA_CHANNEL_ALIAS=channels.url))
    pack.write("environment/environment.cpu.yml", (pack.root / "environment/environment.cpu.yml").read_text() + "  - iopath\n")
    assert journal.state(str(pack.root), ["base"]) == ("stale", "what goes into it has changed")
    done = pack.run("install.py", *options, SAM3D_CONDA_CHANNEL_ALIAS=channels.url)
    assert done.returncode == 0 and any((pack.env / "conda-meta").glob("iopath-*.json")), done.stderr


def test_what_cannot_be_solved_leaves_everything(classic: ScratchPack, channels: CondaChannels) -> None:
    before, text = classic.journal(), (classic.root / "environment/environment.yml").read_text()
    classic.write("environment/environment.yml", text.replace("pytorch3d=0.7.8", "pytorch3d=0.7.99"))
    try:
        done = classic.run("install.py", *CLASSIC, SAM3D_CONDA_CHANNEL_ALIAS=channels.url)
    finally:
        classic.write("environment/environment.yml", text)
    assert done.returncode == 3 and "[E_NO_SOLUTION_CONDA]" in done.stderr and "0.7.99" in done.stderr
    assert classic.journal() == before and not (classic.root / "_env.prev").exists()
    status = json.loads(classic.run("install.py", "status", "--json").stdout)
    assert status["state"] == "ready" and status["last_run"]["error"]["code"] == "E_NO_SOLUTION_CONDA"
    assert [step["step"] for step in status["last_run"]["steps"]] == ["planned", "prechecked", "tool_ready"]


def test_a_channel_that_is_not_there(classic: ScratchPack) -> None:
    done = classic.run("install.py", *CLASSIC, "--rebuild", SAM3D_CONDA_CHANNEL_ALIAS="http://127.0.0.1:9/mirror/t/secret-token")
    assert done.returncode == 3 and "[E_MM_BLOCKED]" in done.stderr and "SAM3D_CONDA_CHANNEL_ALIAS" in done.stderr
    assert "secret-token" not in done.stdout + done.stderr + (classic.root / "install.log").read_text()
    assert classic.ready.exists()


@pytest.mark.full
def test_the_profile_cpu_from_nothing_to_doctor(channels: CondaChannels, tmp_path: Path) -> None:
    """Conda's Python, then uv; the doctor; files that vanish; a repair by uv alone, as no channel answers. micromamba can't be fetched here, so
    the choice falls on rattler by itself."""
    pack = scratch(tmp_path / "pack")
    blocked = {
        "SAM3D_MICROMAMBA_URL": "http://127.0.0.1:9/micromamba",
        "SAM3D_MICROMAMBA_SHA256": "0" * 64,
        "CONDA_EXE": None,
        "PATH": "/usr/bin:/bin",
    }
    skip_without_registry(done := pack.run("install.py", SAM3D_CONDA_CHANNEL_ALIAS=channels.url, **blocked))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not micromamba: micromamba can't be fetched." in done.stdout and pack.journal()["engine"] == "rattler"
    assert pack.journal()["profile"] == "cpu" and (pack.env / "conda-meta").is_dir()
    for phase in ("tools", "solve", "Python", "packages", "check"):
        assert re.search(rf"install:    {phase}\n(install:       .*\n)*install:       \d+\.\d s\n", done.stdout), phase
    examined = json.loads(pack.run("install.py", "doctor", "--json").stdout)
    states = {check["name"]: check["state"] for check in examined["checks"]}
    assert examined["exit"] == 0 and states["numpy"] == states["files"] == states["journal"] == "ok" and "torch" not in states

    (pack.env / f"lib/python{VERSION}/site-packages/numpy/version.py").unlink()
    (pack.env / f"lib/python{VERSION}/json/decoder.py").unlink()  # conda's own
    examined = pack.run("install.py", "doctor")
    assert examined.returncode == 2 and "2 of" in examined.stdout and "install.py repair" in examined.stdout
    done = pack.run("install.py", "repair", SAM3D_CONDA_CHANNEL_ALIAS="file:///no/such/channel")
    assert done.returncode == 0 and "no conda channel answers" in done.stdout, done.stderr
    assert pack.journal()["engine"] == "uv" and audit.audit(str(pack.env)).broken == []


@pytest.mark.full
def test_from_a_clone_to_an_asset(channels: CondaChannels, tmp_path: Path) -> None:
    """The pack itself, cloned: conda's Python, the layer model with PyTorch's CPU build, every package tried, a picture made by the draft engine."""
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    if not any(Path(folder).glob(f"torch-*+cpu-{tag}-*.whl") for folder in os.environ.get("PIP_FIND_LINKS", "").split()):
        pytest.skip("no wheel of PyTorch's CPU build in PIP_FIND_LINKS")
    subprocess.run(["git", "clone", "-q", str(PACK), str(tmp_path / "clone")], check=True)
    pack = ScratchPack.at(tmp_path / "clone")
    text = (pack.root / "environment/environment.cpu.yml").read_text()
    pack.write("environment/environment.cpu.yml", re.sub(r"python=3\.\d+", f"python={VERSION}", text))
    done = pack.run("install.py", "--engine", "rattler", "--layers", "model", SAM3D_CONDA_CHANNEL_ALIAS=channels.url)
    skip_without_registry(done)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "comes from a wheel in PIP_FIND_LINKS" in done.stdout and "+cpu" in (pack.root / "install.log").read_text()
    examined = json.loads(pack.run("install.py", "doctor", "--json").stdout)
    checks = {check["name"]: check for check in examined["checks"]}
    assert (
        examined["exit"] == 0
        and checks["torch"]["text"] == "the CPU build"
        and checks["moge"]["state"] == checks["xatlas"]["state"] == "ok"
    )
    made = pack.run("sam3d.py", "reconstruct", "examples/steak.png", "--out", str(tmp_path / "out"))
    assert made.returncode == 0 and next((tmp_path / "out").rglob("model.glb")).stat().st_size > 10_000, made.stderr
