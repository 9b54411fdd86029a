"""mypy --strict over all rooms but the worker, whose arrays no stub describes: `python tests/run_mypy.py`. Also called by test_lint.py.

mypy needs the package under its name. The repository's folder may have any, so a link called `comfyui_sam3d` is put into an
ignored folder.

A plain `np.ndarray` is complete from numpy 2.3 on, where its type parameters have defaults. Python 3.10 ends at numpy 2.2, so there, and only there, the
strict check of missing type parameters is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("contract", "client", "nodes", "factory", "environment")


def run() -> subprocess.CompletedProcess[str]:
    folder = ROOT / ".mypy_link"
    link = folder / "comfyui_sam3d"
    folder.mkdir(exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)
        os.symlink(os.pardir, link, target_is_directory=True)
    packages = [part for name in PACKAGES for part in ("-p", f"comfyui_sam3d.{name}")]
    old_stubs = tuple(map(int, version("numpy").split(".")[:2])) < (2, 3)
    flags = ["--strict", *(["--allow-any-generics"] if old_stubs else [])]
    command = [sys.executable, "-m", "mypy", *flags, "--config-file", str(ROOT / "pyproject.toml"), *packages]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)


if __name__ == "__main__":
    done = run()
    print(done.stdout + done.stderr, end="")
    sys.exit(done.returncode)
