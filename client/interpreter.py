"""Which command starts the worker. Decided by the pack's folder and by the environment, never by a request or a widget.

SAM3D_WORKER_COMMAND   a whole command line (a container, an ssh line, ...) that ends in a worker on its stdin and stdout
SAM3D_WORKER_PYTHON    an interpreter that has the pack installed
otherwise              <pack>/_env, once install.py has finished it
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from ..contract.errors import SetupError

PACK = Path(__file__).resolve().parent.parent
READY = ".sam3d_ready.json"  # the installer's journal, written last
# -I: neither the current folder nor a host's PYTHON* variables may put other modules before ours.
WORKER = ("-I", "-X", "utf8", "-m", "comfyui_sam3d.worker")
TOOLS = ("weights", "doctor")  # programs beside it (tools.py)

# What a host's Python may have set for itself must not reach another interpreter.
_NOT_INHERITED = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")


def env_python(env: Path) -> Path:
    """The interpreter of a virtual environment; on Windows both uv's and conda's layouts are looked at."""
    if sys.platform == "win32":
        scripts = env / "Scripts" / "python.exe"
        return scripts if scripts.exists() else env / "python.exe"
    return env / "bin" / "python"


def worker_command() -> list[str]:
    """The worker's argument list. Raises SetupError where the environment isn't there: never a silent run in the host's Python."""
    if line := os.environ.get("SAM3D_WORKER_COMMAND", "").strip():
        return _split(line, windows=sys.platform == "win32")
    if python := os.environ.get("SAM3D_WORKER_PYTHON", "").strip():
        found = shutil.which(python)
        if found is None:
            raise SetupError(
                f"SAM3D_WORKER_PYTHON names {python}, which isn't there or can't be run.",
                "Correct the variable, or unset it and run: python install.py",
            )
        return [found, *WORKER]
    env = PACK / "_env"
    interpreter = env_python(env)
    if not (env / READY).is_file() or not interpreter.exists():
        state = "isn't finished" if env.exists() else "isn't there"
        raise SetupError(f"The worker's environment {env} {state}.", f"Run: python install.py   (in {PACK})")
    return [str(interpreter), *WORKER]


def tool_command(name: str) -> list[str]:
    """The argument list of a program of TOOLS in the worker's own interpreter. Raises SetupError where a whole command line starts the worker:
    such a worker may live in another machine or container, and so do its weights."""
    if os.environ.get("SAM3D_WORKER_COMMAND", "").strip():
        raise SetupError(
            "SAM3D_WORKER_COMMAND is set: the worker, and its weights, are where that command leads.",
            f"Run `sam3d {name}` there, or unset the variable.",
        )
    assert name in TOOLS
    return [*worker_command()[: -len(WORKER)], *WORKER[:-1], f"{WORKER[-1]}.{name}"]


def _split(line: str, *, windows: bool) -> list[str]:
    """A command line in words. On Windows a backslash is no escape, and quotes only hold a word together."""
    try:
        words = shlex.split(line, posix=not windows)
    except ValueError as problem:
        raise SetupError(f"SAM3D_WORKER_COMMAND can't be read: {problem}.", "Correct its quotes, or unset it.") from None
    return [word.strip('"') for word in words] if windows else words


def worker_environment() -> dict[str, str]:
    """This process's variables without those that belong to its own Python."""
    kept = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    return {**kept, "PYTHONUTF8": "1", "PYTHONNOUSERSITE": "1"}
