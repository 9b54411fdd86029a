"""mypy --strict over contract, client and nodes: `python tests/run_mypy.py`. Also called by test_lint.py.

mypy needs the package under its name. The repository's folder may have any, so a link called `comfyui_sam3d` is put into an
ignored folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("contract", "client", "nodes")


def run() -> subprocess.CompletedProcess[str]:
    folder = ROOT / ".mypy_link"
    link = folder / "comfyui_sam3d"
    folder.mkdir(exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)
        os.symlink(os.pardir, link, target_is_directory=True)
    packages = [part for name in PACKAGES for part in ("-p", f"comfyui_sam3d.{name}")]
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), *packages]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)


if __name__ == "__main__":
    done = run()
    print(done.stdout + done.stderr, end="")
    sys.exit(done.returncode)
