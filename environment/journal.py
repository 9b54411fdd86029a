"""What an `_env/` says of itself: `.sam3d_ready.json`, written last, and whether it is still true. Kept small: every start reads it.

    {"schema": 1, "layers": ["base"], "profile": "cpu", "python": "3.11.7", "pack": "0.1.0", "root": "...", "inputs_sha256": "...", ...}

An environment without this file is not ready, whatever else it holds: an installer that was killed leaves packages that look
installed and are not. The name is also known to client/, which starts no worker from an environment that lacks it.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import re
from typing import Any

SCHEMA = 1
LAYERS = ("base", "model", "video", "server", "dev")  # environment/<layer>.txt
PROFILE = "cpu"  # until profiles for GPUs are built
READY = ".sam3d_ready.json"
BUILDING = ".sam3d_building.json"

# The sections of pyproject.toml that an installed environment depends on; the rest (ruff, pytest, ...) may change freely.
_BUILD_SECTIONS = ("project", "build-system", "tool.setuptools")


def env_dir(root: str) -> str:
    """The environment of the pack at `root`; a link named `_env` may lead to another disk."""
    return os.path.realpath(os.path.join(root, "_env"))


def env_python(env: str) -> str:
    return os.path.join(env, "Scripts", "python.exe") if os.name == "nt" else os.path.join(env, "bin", "python")


def read(env: str, name: str = READY) -> dict[str, Any] | None:
    """The journal as a dict; None when it is missing, unreadable, or of another schema."""
    try:
        with open(os.path.join(env, name), encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def write(env: str, record: dict[str, Any], name: str = READY) -> None:
    """Written aside, synced and renamed: it is there whole or not at all."""
    path = os.path.join(env, name)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def inputs_sha256(root: str, layers: list[str]) -> str:
    """One hash over everything that decides what is in an environment of these layers."""
    digest = hashlib.sha256(f"schema {SCHEMA}\n".encode())
    for layer in sorted(layers):
        with open(os.path.join(root, "environment", layer + ".txt"), encoding="utf-8") as file:
            digest.update(f"== {layer}\n{file.read()}".encode())
    keep = False
    with open(os.path.join(root, "pyproject.toml"), encoding="utf-8") as file:
        for line in file:
            header = re.match(r"\[+([^\]]+)\]", line)
            if header:
                keep = header[1].startswith(_BUILD_SECTIONS)
            if keep:
                digest.update(line.encode())
    return digest.hexdigest()


def state(root: str, layers: tuple[str, ...] | list[str]) -> tuple[str, str]:
    """("ready" | "lacks" | "stale" | "missing", why) of the environment of `root`, for a command that needs `layers`."""
    env = env_dir(root)
    record = read(env)
    if record is None or not os.path.exists(env_python(env)):
        return "missing", "it is not there" if not os.path.isdir(env) else "its last build did not end"
    has = record.get("layers", [])
    if record.get("root") != root:
        return "stale", "the folder was moved"
    if any(layer not in LAYERS for layer in has) or record.get("inputs_sha256") != inputs_sha256(root, has):
        return "stale", "what goes into it has changed"
    lacking = [layer for layer in layers if layer not in has]
    return ("lacks", "it lacks " + " and ".join(lacking)) if lacking else ("ready", "")


def packages(env: str) -> set[str]:
    """The `*.dist-info` folders of an environment: one for each package and version that is in it, or looks so."""
    where = "Lib" if os.name == "nt" else os.path.join("lib", "python3*")
    return set(glob.glob(os.path.join(glob.escape(env), where, "site-packages", "*.dist-info")))


def audit(env: str) -> tuple[int, list[str]]:
    """(files that the installed packages list, those of them that are missing or cut short), by every RECORD.

    A package whose RECORD itself is missing counts as broken.
    """
    count, broken = 0, []
    for info in packages(env):
        site = os.path.dirname(info)
        try:
            with open(os.path.join(info, "RECORD"), encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
        except OSError:
            broken.append(os.path.join(info, "RECORD"))
            continue
        for row in rows:
            count += 1
            path = os.path.join(site, row[0])
            try:
                size = os.stat(path).st_size
            except OSError:
                broken.append(path)
                continue
            if len(row) > 2 and row[2].isdigit() and int(row[2]) != size:
                broken.append(path)
    return count, broken
