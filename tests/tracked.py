"""What git tracks: the files that the lint tests read, and what would be published."""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def tracked() -> tuple[str, ...]:
    """Paths of tracked files that exist, relative to the root, with forward slashes. Skips where there is no git checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return tuple(name for name in listed.decode("utf-8").split("\0") if name and (ROOT / name).is_file())


def sources(*folders: str) -> list[str]:
    """Tracked Python files, all or those in these top folders."""
    return [name for name in tracked() if name.endswith(".py") and (not folders or name.split("/")[0] in folders)]


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text("utf-8"), filename=name)
