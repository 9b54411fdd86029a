"""Every profile's packages, default and optional, really resolve with wheels alone, for each platform. Asks the package registry: long counts only."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from comfyui_sam3d.environment import errors, journal, process, profiles, uv

from .scratch_pack import PACK, real_uv

pytestmark = pytest.mark.full

LINUX = {"new": "x86_64-manylinux_2_35", "2_31": "x86_64-manylinux_2_31", "2_28": "x86_64-manylinux_2_28"}
WINDOWS, MAC, ARM = "x86_64-pc-windows-msvc", "aarch64-apple-darwin", "aarch64-manylinux_2_28"
PLAIN = ("opencv", "matplotlib", "transformers", "diffusers", "timm", "trimesh", "pyvista", "xformers", "spconv")  # what the registry has
# profile, Python, platform, system, optional packages
CASES = [
    ("cu121", "3.10", LINUX["2_28"], "linux-64", (*PLAIN, "open3d")),
    ("cu128", "3.12", LINUX["2_28"], "linux-64", PLAIN),
    ("cu128", "3.12", LINUX["2_31"], "linux-64", (*PLAIN, "open3d")),
    ("cu128", "3.12", LINUX["new"], "linux-64", (*PLAIN, "open3d")),
    ("cu128", "3.12", WINDOWS, "win-64", (*PLAIN, "open3d", "triton")),
    *(("cpu", python, platform, system, ()) for python in ("3.10", "3.12", "3.13") for platform, system in ((LINUX["2_28"], "linux-64"), (WINDOWS, "win-64"), (MAC, "osx-arm64"))),
    ("cpu", "3.12", ARM, "linux-aarch64", ()),
]  # fmt: skip


def compiled(profile: str, python: str, platform: str, requirements: list[str], layers: list[str]) -> subprocess.CompletedProcess[str]:
    files = [str(PACK / "environment" / f"{layer}.txt") for layer in layers]
    flags = [
        *uv.index_flags({k: v for k, v in os.environ.items() if k != "PIP_FIND_LINKS"}),
        "--only-binary",
        ":all:",
        "--no-config",
        "--quiet",
    ]
    argv = [str(real_uv()), "pip", "compile", "--python-version", python, "--python-platform", platform, *flags]
    argv += ["--constraints", str(PACK / "environment" / f"constraints.{profile}.txt"), *files, "-"]
    done = subprocess.run(
        argv, input="\n".join(requirements), capture_output=True, text=True, env=process.child_environment(dict(os.environ))
    )
    if done.returncode and errors.explain("uv", done.stderr, 1, "").network:
        pytest.skip("no package registry can be reached")
    return done


@pytest.mark.parametrize(("profile", "python", "platform", "system", "extras"), CASES)
def test_it_resolves(profile: str, python: str, platform: str, system: str, extras: tuple[str, ...]) -> None:
    known = profiles.extras(str(PACK), profile, system)
    wanted = [requirement for name in extras for requirement in known[name]]
    assert all(known[name] for name in extras) and not any("+" in requirement for requirement in wanted)
    layers = [layer for layer in journal.LAYERS if layer != "dev"]
    done = compiled(profile, python, platform, wanted, layers)
    assert done.returncode == 0, done.stderr
    read = json.loads((PACK / "environment/profiles.json").read_text())["profiles"][profile]
    pins = [line for line in done.stdout.splitlines() if line.startswith("torch==")]
    assert pins == [f"torch=={read['torch']}"] if read.get("torch") else len(pins) == 1


def test_the_plain_file_is_the_layers(tmp_path: object) -> None:
    """Read by anybody's uv or pip, requirements_env.txt is base and model: what is asked for by name stays out."""
    argv = [str(real_uv()), "pip", "compile", "--quiet", "--no-config", "--no-deps", str(PACK / "environment/requirements_env.txt")]
    done = subprocess.run(
        [*argv, "--python-version", "3.12", *uv.index_flags(dict(os.environ))],
        capture_output=True,
        text=True,
        env=process.child_environment(dict(os.environ)),
    )
    if done.returncode and errors.explain("uv", done.stderr, 1, "").network:
        pytest.skip("no package registry can be reached")
    names = {line.partition("==")[0] for line in done.stdout.splitlines() if "==" in line}
    assert (
        done.returncode == 0 and {"numpy", "torch", "xatlas"} <= names and not names & {"gsplat", "open3d", "xformers", "spconv-cu126"}
    ), done.stderr


def test_open3d_says_what_it_lacks() -> None:
    done = compiled("cu128", "3.12", LINUX["2_28"], ["open3d>=0.18,<0.21"], ["base"])
    assert done.returncode != 0 and errors.explain("uv", done.stderr, 1, "").code == "E_NO_WHEEL"
