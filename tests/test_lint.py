"""Format, lint and types of what is tracked."""

from __future__ import annotations

import subprocess
import sys

import pytest

import run_mypy
from tracked import ROOT, sources

pytest.importorskip("ruff")


def ruff(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, *sources()], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_format() -> None:
    ruff("format", "--check")


def test_lint() -> None:
    ruff("check", "--no-fix")


def test_types() -> None:
    pytest.importorskip("mypy")
    done = run_mypy.run()
    assert done.returncode == 0, done.stdout + done.stderr
