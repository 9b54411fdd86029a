"""Runs the command line as a user does: a process of its own, with a real worker behind it. For the tests of factory/."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from PIL import Image

TESTS = Path(__file__).resolve().parent
STUB = shlex.join([sys.executable, str(TESTS / "stub_worker.py")])
SCHEMA = json.loads((TESTS.parent / "docs" / "cli-events.schema.json").read_text(encoding="utf-8"))
_validator = jsonschema.Draft202012Validator(SCHEMA)


def environment(*, stub: bool = True, **more: str) -> dict[str, str]:
    """Variables for the command line: the stub's engine, or the real one, in this very Python."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SAM3D_")}
    worker = {"SAM3D_WORKER_COMMAND": STUB} if stub else {"SAM3D_WORKER_PYTHON": sys.executable}
    return {**kept, **worker, "PYTHONWARNINGS": "error", **more}


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "comfyui_sam3d.factory.cli", *map(str, args)]


class Ran:
    """A finished command: its exit code, stdout, stderr, and with --json its events, each held against the schema."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def events(self) -> list[dict[str, Any]]:
        return check_events(self.out)

    def only(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == kind]


def check_events(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        assert _validator.is_valid(event), event
    return found


def cli(*args: object, stub: bool = True, cwd: Path | None = None, variables: dict[str, str] | None = None) -> Ran:
    done = subprocess.run(
        command(*args),
        env=environment(stub=stub, **(variables or {})),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def here(*args: object, capsys: Any) -> Ran:
    """The command in this process: for the many runs that start no worker."""
    from comfyui_sam3d.factory.cli import main

    try:
        main([str(a) for a in args])
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    return Ran(code, *capsys.readouterr())


def start(*args: object, stub: bool = True, **more: Any) -> subprocess.Popen[str]:
    """The command, running; its output as text pipes."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command(*args), env=environment(stub=stub), **{**pipes, **more})


def sprite(path: Path, *, alpha: bool = True, shade: int = 120, size: int = 24) -> Path:
    """A disc, on transparency or on white."""
    rows, columns = np.mgrid[:size, :size] - size / 2 + 0.5
    disc = rows**2 + columns**2 < (size * 0.4) ** 2
    pixels = np.full((size, size, 4), 255, np.uint8)
    pixels[disc] = (shade, 200 - shade // 2, 60, 255)
    if alpha:
        pixels[~disc, 3] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if alpha else pixels[..., :3]).save(path)
    return path


def mask(path: Path, *, size: int = 24, height: int | None = None, where: tuple[slice, slice] = (slice(6, 18), slice(6, 18))) -> Path:
    pixels = np.zeros((height or size, size), np.uint8)
    pixels[where] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def is_complete(folder: Path) -> dict[str, Any]:
    """The meta.json of a result whose files are all there, checked here without the code under test."""
    import hashlib

    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert meta["complete"] is True and meta["files"]
    for name, record in meta["files"].items():
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (record["size"], record["sha256"]), name
    return meta


def hidden(out: Path) -> list[str]:
    """Leftovers of writing: temporary folders and files, the lock aside."""
    return [p.name for p in out.rglob(".*") if p.name != ".sam3d-batch.lock"]


def states(ran: Ran) -> dict[str, str]:
    """Name -> state of `done`, or the code of the last `failed`."""
    return {e["name"]: e["state"] if e["event"] == "done" else e["error"]["code"] for e in ran.events if e["event"] in ("done", "failed")}


def rows(folder: Path, *lines: dict) -> None:
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
