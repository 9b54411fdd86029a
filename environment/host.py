"""What machine this is, as far as an installation depends on it. Tests hand in machines of their own."""

from __future__ import annotations

import os
import platform
import re
import sys
from typing import NamedTuple

from .process import output

PYTHONS = ((3, 10), (3, 13))  # what our packages have wheels for


class Gpu(NamedTuple):
    name: str
    driver: tuple[int, ...]
    capability: tuple[int, int]  # compute capability; (0, 0) where the driver doesn't say
    memory_mb: int


class Host(NamedTuple):
    system: str  # conda's name of the platform: linux-64, win-64, osx-arm64, ...
    gpus: tuple[Gpu, ...] = ()
    glibc: tuple[int, ...] = ()  # () elsewhere than on Linux with glibc
    python: tuple[int, int] = (3, 12)  # the Python that runs the installer
    embedded: bool = False  # the embeddable Python of a Windows package, which can't carry environments


def look() -> Host:
    """This machine."""
    name, version = platform.libc_ver() if sys.platform == "linux" else ("", "")
    return Host(
        system(),
        tuple(_gpus()),
        _numbers(version) if name == "glibc" else (),
        (sys.version_info[0], sys.version_info[1]),
        any(entry.endswith("._pth") for entry in os.listdir(os.path.dirname(_executable()) or os.curdir)),
    )


def system() -> str:
    machine = platform.machine().lower()
    kind = {"linux": "linux", "win32": "win", "darwin": "osx"}.get(sys.platform, sys.platform)
    word = {"x86_64": "64", "amd64": "64", "aarch64": "aarch64" if kind == "linux" else "arm64"}.get(machine, machine)
    return f"{kind}-{word}"


def _gpus() -> list[Gpu]:
    """NVIDIA's GPUs by nvidia-smi, which comes with the driver; none where it isn't there or doesn't answer in 15 seconds (it takes some where several GPUs sleep)."""
    said = None
    for columns in (
        "name,driver_version,memory.total,compute_cap",
        "name,driver_version,memory.total",
    ):  # drivers before 470 know no compute_cap
        said = said or output(["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader,nounits"], timeout=15)
    return [gpu for gpu in map(_gpu, (said or "").splitlines()) if gpu]


def _gpu(line: str) -> Gpu | None:
    """ "NVIDIA H100 PCIe, 535.129.03, 81559, 9.0" as a Gpu."""
    parts = [part.strip() for part in line.split(",")]
    if len(parts) < 3 or not _numbers(parts[1]):
        return None
    capability = _numbers(parts[3])[:2] if len(parts) > 3 else ()
    memory = _numbers(parts[2])
    return Gpu(parts[0], _numbers(parts[1]), (capability[0], capability[1]) if len(capability) == 2 else (0, 0), memory[0] if memory else 0)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _executable() -> str:
    return getattr(sys, "_base_executable", None) or sys.executable


def base_python(host: Host, wanted: str = "") -> str:
    """The Python that uv makes an environment from: the running one (of a venv, the one below), or what uv shall find or fetch.

    wanted: a profile's Python ("3.12"), where its wheels exist for no other.
    """
    fits = PYTHONS[0] <= host.python <= PYTHONS[1] and not host.embedded
    if fits and wanted in ("", f"{host.python[0]}.{host.python[1]}"):
        return _executable()
    return wanted or f">={PYTHONS[0][0]}.{PYTHONS[0][1]},<{PYTHONS[1][0]}.{PYTHONS[1][1] + 1}"
