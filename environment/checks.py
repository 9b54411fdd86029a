"""What is looked at before anything is touched. Each finding has a code, a severity and a sentence; an error stops, the rest is told.

error    the installation would fail, or make something that can't run
warning  it may fail, or be slow
info     good to know
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import NamedTuple

from .errors import HINTS, InstallError
from .host import Host
from .profiles import Profile, misfits
from .settings import Settings

LONG_PREFIX, TOO_LONG_PREFIX = 90, 140  # characters of the environment's path on Windows, whose limit for whole paths is 260
_MEGABYTES = {"video": 250, "server": 300, "ray": 300, "modal": 80, "dev": 900}  # unpacked; the other layers' sizes depend on the profile


class Finding(NamedTuple):
    severity: str
    code: str
    text: str
    hint: str = ""


def megabytes(profile: Profile, layers: list[str]) -> int:
    """About what these layers of a profile take on the disk, with its Python."""
    sizes = profile.data["disk_mb"]
    return int(sizes["python"] + sum(sizes.get(layer, _MEGABYTES.get(layer, 200)) for layer in layers))


def look(host: Host, profile: Profile, env: str, need_mb: int, settings: Settings) -> list[Finding]:
    found = [Finding("error", code, text) for code, text in misfits(profile, host) if settings.gpu_check or code == "E_PLATFORM"]
    if profile.cuda and not host.gpus and settings.gpu_check:
        text = f"No NVIDIA GPU is seen; profile {profile.name} would compute on the CPU here."
        found.append(
            Finding("warning", "W_NO_GPU", text, "Choose --profile cpu, unless this is made for another machine (then --no-gpu-check).")
        )
    if profile.cuda and host.gpus:
        found += _memory(host)
    found += _path(host, env)
    found += [finding for finding in (_space(env, need_mb), _writable(env)) if finding]
    return found


def refuse(findings: list[Finding]) -> None:
    """Raise the first error; the others stand in its message."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise InstallError(errors[0].code, "\n      ".join(finding.text for finding in errors), errors[0].hint or HINTS[errors[0].code])


def _memory(host: Host) -> list[Finding]:
    gigabytes = max(gpu.memory_mb for gpu in host.gpus) / 1024
    if gigabytes < 15.5:
        text = f"The GPU has {gigabytes:.0f} GB; the engine sam3d then loads one stage at a time."
        return [Finding("warning", "W_MEMORY", text)]
    return [Finding("info", "I_MEMORY", f"The GPU has {gigabytes:.0f} GB.")] if gigabytes < 31.5 else []


def _path(host: Host, env: str) -> list[Finding]:
    found = []
    if host.system.startswith("win") and len(env) > LONG_PREFIX:
        severity = "error" if len(env) > TOO_LONG_PREFIX and not _long_paths() else "warning"
        found.append(Finding(severity, "E_PATH_TOO_LONG", f"The path of the environment has {len(env)} characters: {env}"))
    if "onedrive" in env.lower():
        found.append(
            Finding("warning", "W_SYNCED", f"{env} is in a folder that OneDrive copies.", "Set SAM3D_ENV_DIR to a folder that isn't.")
        )
    return found


def _long_paths() -> bool:
    """Whether Windows was told to allow paths beyond 260 characters."""
    if sys.platform != "win32":
        return False
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
        return False


def existing(path: str) -> str:
    """The nearest folder at or above `path` that is there."""
    path = os.path.abspath(path)
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _space(env: str, need_mb: int) -> Finding | None:
    free = shutil.disk_usage(existing(env)).free // 2**20
    if free >= need_mb:
        return None
    return Finding("error", "E_DISK", f"The disk is full: about {need_mb} MB are needed in {os.path.dirname(env)}, {free} MB are free.")


def _writable(env: str) -> Finding | None:
    folder = existing(os.path.dirname(env))
    return None if os.access(folder, os.W_OK) else Finding("error", "E_PERM", f"No permission to write {folder}.")
