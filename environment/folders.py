"""Folders that this installer made: where the environment lies, whether it is ours, how it goes away."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable

from .errors import InstallError
from .settings import Settings
from .steps import read as last_run


def place(root: str, settings: Settings) -> None:
    """SAM3D_ENV_DIR: `_env` becomes a link to that folder, so that everybody else still finds it at `_env`."""
    link = os.path.join(root, "_env")
    if not settings.env_dir:
        return
    target = os.path.realpath(settings.env_dir)
    if os.path.realpath(link) == target:
        return
    if os.path.lexists(link):
        raise InstallError(
            "E_FOREIGN",
            f"SAM3D_ENV_DIR is {target}, but {link} is there already.",
            "Run `python install.py uninstall` first, or unset the variable.",
        )
    if os.path.lexists(target) and not (os.path.isdir(target) and (not os.listdir(target) or is_ours(root, target))):
        raise InstallError(
            "E_FOREIGN",
            f"SAM3D_ENV_DIR is {target}, which is there already and was not made by install.py.",
            "Name a folder that isn't there yet.",
        )
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.name == "nt":
        import _winapi

        os.makedirs(target, exist_ok=True)
        _winapi.CreateJunction(target, link)  # type: ignore[attr-defined,unused-ignore]  # a link that needs no administrator
    else:
        os.symlink(target, link)


def is_ours(root: str, env: str) -> bool:
    """Whether install.py made this folder: by its journal, a marker in it, or the note of the run that was building it."""
    with contextlib.suppress(OSError):
        if any(name.startswith(".sam3d_") for name in os.listdir(env)):
            return True
    return bool(last_run(root).get("building") == env)


def remove(folder: str, trash: str) -> None:
    if not os.path.isdir(folder):
        return
    if folder != trash:
        shutil.rmtree(trash, ignore_errors=True)
        rename(folder, trash)
    shutil.rmtree(trash, onerror=writable_and_again)


def rename(old: str, new: str) -> None:
    """os.rename; on Windows with patience for virus scanners, which hold new files for a moment."""
    pause = 0.1
    while True:
        try:
            return os.rename(old, new)
        except PermissionError:
            if os.name != "nt":
                raise
            if pause > 5:
                raise InstallError("E_AV_LOCK", f"{old} can't be renamed: a program has files of it open.") from None
            time.sleep(pause)
            pause *= 2


def writable_and_again(function: Callable[[str], object], path: str, _: object) -> None:
    """Read-only files stop rmtree on Windows."""
    os.chmod(path, 0o700)
    function(path)
