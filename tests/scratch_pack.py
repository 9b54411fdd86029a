"""A copy of what the launcher and the installer are made of, in a folder of its own: tests build `_env/` there, never in the checkout.

The command line in it is a stub that tells how it was called. `FakeUv` is an executable that notes how it was called, and makes an
environment by a trick (its Python is a script that starts the one that runs the tests).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PACK = Path(__file__).resolve().parent.parent

posix = pytest.mark.skipif(os.name == "nt", reason="the fake uv is a POSIX script")

STUB = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "prefix": sys.prefix, "cwd": os.getcwd(), "pid": os.getpid(), "path": sys.path, "isolated": sys.flags.isolated}), flush=True)
if "--wait" in sys.argv:
    sys.stdin.readline()
sys.exit(int(os.environ.get("STUB_EXIT", "0")))
"""

# The Python of a fake environment: the one that runs the tests. What the installer asks of each package it answers by itself; FAKE_PROBE holds
# another answer for all of them.
INTERPRETER = """#!/bin/sh
answer='{{"state": "ok", "version": "1", "text": "12.8"}}'
case "$*" in *probes.py*) echo "${{FAKE_PROBE:-$answer}}"; exit;; esac
exec "{python}" "$@"
"""

FAKE = """#!{python}
import json, os, sys, time
from pathlib import Path

args = sys.argv[1:]
if args == ["--version"]:
    print("uv 0.13.9 (a fake)")
    sys.exit()
with open(os.environ["FAKE_UV_LOG"], "a") as log:
    log.write(json.dumps({{"argv": args, "env": dict(os.environ)}}) + "\\n")
for word, text in json.loads(os.environ.get("FAKE_UV_FAIL", "{{}}")).items():
    if word in args:
        print(text, file=sys.stderr)
        sys.exit(2)
if args[0] == "venv":
    env = Path(args[args.index("--python") + 2])
    (env / "bin").mkdir(parents=True)
    (env / "bin/python").write_text({interpreter!r})
    (env / "bin/python").chmod(0o755)
    (env / "lib/python3.11/site-packages").mkdir(parents=True)
else:
    env = Path(args[args.index("--python") + 1]).parent.parent
    info = env / "lib/python3.11/site-packages/thing-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "RECORD").write_text("thing.py,,1\\nthing-1.0.dist-info/RECORD,,\\n")
    if os.environ.get("FAKE_UV_HANG"):  # in the state that uv leaves when it is killed: it looks installed and is not
        Path(os.environ["FAKE_UV_HANG"]).write_text(str(os.getpid()))
        time.sleep(600)
    if not os.environ.get("FAKE_UV_HOLE"):
        (info.parent / "thing.py").write_text("1")
    time.sleep(float(os.environ.get("FAKE_UV_SECONDS", "0")))
print("Installed 1 package in 1ms")
"""


def user_environment(**variables: str | None) -> dict[str, str]:
    """The environment of a user who has set nothing of ours, but for `variables` (None: unset)."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("COVERAGE_", "COV_", "PYTEST_", "SAM3D_", "UV_"))}
    env["SAM3D_UV"] = str(real_uv())
    env["SAM3D_CONDA_CHANNEL_ALIAS"] = "file:///no/such/channel"  # no test asks a server: where none answers, uv alone builds
    for key, value in variables.items():
        if value is None:
            env.pop(key, None)
        else:
            env[key] = value
    return env


def real_uv() -> Path:
    import uv

    return Path(uv.find_uv_bin())


def user_python() -> str:
    """The Python that the environment of these tests was made from: what a user would type."""
    return getattr(sys, "_base_executable", sys.executable)


class ScratchPack:
    def __init__(self, root: Path) -> None:
        self._place(root)
        for name in (
            "sam3d.py",
            "install.py",
            "pyproject.toml",
            "README.md",
            "LICENSE",
            ".gitignore",
            "__init__.py",
            "contract/version.py",
            "contract/errors.py",
            "vendor/__init__.py",
        ):
            self.write(name, (PACK / name).read_text(encoding="utf-8"))
        for name in ("contract/__init__.py", "factory/__init__.py"):
            self.write(name, "")
        self.write("factory/cli.py", STUB)
        for name in ("environment", "vendor/moge"):
            shutil.copytree(PACK / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))

    @classmethod
    def at(cls, root: Path) -> ScratchPack:
        """A pack that is there already: a clone."""
        pack = cls.__new__(cls)
        pack._place(root)
        return pack

    def _place(self, root: Path) -> None:
        self.root = root.resolve()
        self.env = self.root / "_env"
        self.ready = self.env / ".sam3d_ready.json"

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def start(
        self, script: str, *args: str, python: str | None = None, cwd: Path | None = None, **variables: str | None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python or user_python(), str(self.root / script), *args],
            cwd=cwd or self.root,
            env=user_environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        with self.start(script, *args, **options) as process:
            out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def journal(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.ready.read_text())
        return record

    def pretend_ready(self, layers: tuple[str, ...] = ("base",)) -> None:
        """An `_env/` that passes for ready, whose Python is the one that runs the tests."""
        from comfyui_sam3d.environment import journal

        (self.env / "bin").mkdir(parents=True)
        (self.env / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (self.env / "bin" / "python").chmod(0o755)
        journal.write(
            str(self.env),
            {
                "schema": journal.SCHEMA,
                "layers": list(layers),
                "profile": "cpu",
                "root": str(self.root),
                "inputs_sha256": journal.inputs_sha256(str(self.root), list(layers)),
            },
        )


class FakeUv:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "uv"
        self.log = folder / "uv.log"
        self.path.write_text(FAKE.format(python=sys.executable, interpreter=INTERPRETER.format(python=sys.executable)))
        self.path.chmod(0o755)

    def variables(self, **more: str | None) -> dict[str, Any]:
        return {"SAM3D_UV": str(self.path), "FAKE_UV_LOG": str(self.log), **more}

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def installs(self) -> list[list[str]]:
        return [call["argv"] for call in self.calls() if call["argv"][0] == "pip"]


def pairs(argv: list[str], flag: str) -> list[str]:
    return [argv[i + 1] for i, word in enumerate(argv) if word == flag]


def skip_without_registry(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode and "registry can't be reached" in done.stderr:
        pytest.skip("no package registry can be reached, and the package cache is cold")


def wait_for(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
