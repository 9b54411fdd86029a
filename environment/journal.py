"""What an `_env/` says of itself: `.sam3d_ready.json`, written last, and whether it is still true. Kept small: every start reads it.

    {"schema": 1, "layers": ["base"], "profile": "cpu", "asked": "auto", "engine": "uv", "with": [], "python": "3.11.7", "pack": "0.1.0", "root": "...",
     "inputs_sha256": "...", ...}

An environment without this file is not ready, whatever else it holds: an installer that was killed leaves packages that look
installed and are not. The name is also known to client/, which starts no worker from an environment that lacks it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

SCHEMA = 1
LAYERS = ("base", "model", "video", "server", "node", "ray", "modal", "dev")  # environment/<layer>.txt
READY = ".sam3d_ready.json"
BUILDING = ".sam3d_building.json"

# The sections of pyproject.toml that an installed environment depends on; the rest (ruff, pytest, ...) may change freely.
_BUILD_SECTIONS = ("project", "build-system", "tool.setuptools")


def env_dir(root: str) -> str:
    """The environment of the pack at `root`; a link named `_env` may lead to another disk."""
    return os.path.realpath(os.path.join(root, "_env"))


def env_python(env: str) -> str:
    """Its interpreter: on Windows a virtual environment has it in Scripts, a conda prefix at the top."""
    if os.name != "nt":
        return os.path.join(env, "bin", "python")
    scripts = os.path.join(env, "Scripts", "python.exe")
    return scripts if os.path.exists(scripts) else os.path.join(env, "python.exe")


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


def inputs_sha256(root: str, layers: list[str], profile: str = "cpu") -> str:
    """One hash over everything that decides what is in an environment of these layers and this profile."""
    folder = os.path.join(root, "environment")
    digest = hashlib.sha256(f"schema {SCHEMA}\n".encode())
    with open(os.path.join(folder, "profiles.json"), encoding="utf-8") as file:
        entry = json.load(file)["profiles"][profile]
    digest.update(json.dumps(entry, sort_keys=True).encode())
    for name in (*(layer + ".txt" for layer in sorted(layers)), entry["environment"], f"constraints.{profile}.txt", "requirements_env.txt"):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            digest.update(f"== {name}\n{file.read()}".encode())
    keep = False
    with open(os.path.join(root, "pyproject.toml"), encoding="utf-8") as file:
        for line in file:
            header = re.match(r"\[+([^\]]+)\]", line)
            if header:
                keep = header[1].startswith(_BUILD_SECTIONS)
            if keep:
                digest.update(line.encode())
    return digest.hexdigest()


def state(root: str, layers: list[str] | tuple[str, ...], profile: str = "", extras: tuple[str, ...] | list[str] = ()) -> tuple[str, str]:
    """("ready" | "lacks" | "stale" | "missing", why) of the environment of `root`, for whoever needs `layers` and the optional packages `extras`.

    profile: the one that is wanted, "" for whichever is there.
    """
    env = env_dir(root)
    record = read(env)
    if record is None or not os.path.exists(env_python(env)):
        return "missing", "it is not there" if not os.path.isdir(env) else "its last build did not end"
    has, its = record.get("layers", []), record.get("profile", "cpu")
    if record.get("root") != root:
        return "stale", "the folder was moved"
    if profile and its != profile:
        return "stale", f"it has profile {its}, wanted is {profile}"
    try:
        current = inputs_sha256(root, has, its)
    except (OSError, KeyError):  # a layer or a profile that there is no longer
        current = ""
    if record.get("inputs_sha256") != current:
        return "stale", "what goes into it has changed"
    lacking = [name for name in layers if name not in has] + [name for name in extras if name not in record.get("with", [])]
    return ("lacks", "it lacks " + " and ".join(lacking)) if lacking else ("ready", "")
