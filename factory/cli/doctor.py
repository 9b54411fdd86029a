"""`doctor`: does everything work here? Each check says what it saw, and where something is wrong, what to do."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...client import open_backend
from ...client.interpreter import PACK, READY, worker_command
from ...client.tools import run_tool
from ...contract.backend import Backend
from ...contract.errors import Sam3dError, SetupError
from ...contract.version import PROTOCOL, VERSION
from ..events import ENVIRONMENT, FAILED, OK
from ..output import check_writable

_TINY = 48  # pixels a side of the picture that is reconstructed


@dataclass(frozen=True)
class Check:
    """state: ok, note (good to know, nothing is wrong) or wrong. environment: a wrong one means that nothing can work here (exit code 3)."""

    name: str
    state: str
    text: str
    hint: str = ""
    environment: bool = False


def run(out: Path, *, as_json: bool) -> int:
    """All checks; 0, 1 (something is wrong) or 3 (the environment is)."""
    checks: list[Check] = []
    for check in _checks(out):
        checks.append(check)
        if not as_json:
            _print(check)
    wrong = [check for check in checks if check.state == "wrong"]
    code = OK if not wrong else ENVIRONMENT if any(check.environment for check in wrong) else FAILED
    if as_json:
        print(json.dumps({"version": VERSION, "exit": code, "checks": [asdict(check) for check in checks]}, ensure_ascii=False))
    else:
        print(_summary(checks) if not wrong else f"{len(wrong)} of {len(checks)} checks found something wrong")
    return code


def _summary(checks: list[Check]) -> str:
    """What works where nothing is wrong: which engine `auto` is, and what the learned one may still want."""
    auto = next((check.text.rpartition(" ")[2] for check in checks if check.name == "worker"), "draft")
    wants = [check.name.removeprefix("sam3d ") for check in checks if check.state == "note" and check.name.startswith("sam3d ")]
    if auto == "sam3d":
        return "everything works; `auto` is the engine sam3d" + (f" (see the notes on {', '.join(wants)})" if wants else "")
    return f"the engine {auto} works; for the engine sam3d see the notes on {', '.join(wants) or 'it'}"


def _checks(out: Path) -> Iterator[Check]:
    yield Check("pack", "ok", f"{VERSION}, protocol {PROTOCOL}, in {PACK}")
    yield Check("python", "ok", f"{platform.python_version()} ({sys.executable}), {platform.platform(terse=True)}")
    yield _environment()
    yield from _worker()
    yield _writable(out)
    if not os.environ.get("SAM3D_SERVER", "").strip():  # the server's own doctor knows about its engine
        yield from _learned()


def _environment() -> Check:
    """What the worker runs in: another interpreter by a variable, or _env with its journal."""
    if server := os.environ.get("SAM3D_SERVER", "").strip():
        return Check("environment", "ok", f"SAM3D_SERVER is set: {server} reconstructs")
    try:
        command = worker_command()
    except Sam3dError as problem:
        return Check("environment", "wrong", problem.message, problem.hint, environment=True)
    for variable in ("SAM3D_WORKER_COMMAND", "SAM3D_WORKER_PYTHON"):
        if os.environ.get(variable, "").strip():
            return Check("environment", "ok", f"{variable} is set: {command[0]}")
    journal: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        journal = json.loads((PACK / "_env" / READY).read_text(encoding="utf-8"))
    layers = ", ".join(journal.get("layers", [])) or "unknown"
    return Check("environment", "ok", f"_env, layers: {layers}; profile: {journal.get('profile', 'unknown')}")


def _worker() -> Iterator[Check]:
    """Start a worker, wait for its greeting, let it make something tiny."""
    backend = open_backend()
    try:
        start = time.perf_counter()
        try:
            hello = backend.start()
        except Sam3dError as problem:
            yield Check("worker", "wrong", problem.message, problem.hint, environment=True)
            return
        took = time.perf_counter() - start
        yield Check("worker", "ok", f"answered after {took:.2f} s: Python {hello.python}, engines: {', '.join(hello.engines)}")
        yield _tiny(backend)
    finally:
        backend.close()


def _tiny(backend: Backend) -> Check:
    import numpy as np

    from ...contract.request import DraftOptions, ReconstructRequest

    rows, columns = np.mgrid[:_TINY, :_TINY] - _TINY / 2
    disc = (rows**2 + columns**2 < (_TINY * 0.4) ** 2)[None]
    image = np.full((_TINY, _TINY, 3), (200, 120, 60), np.uint8)
    start = time.perf_counter()
    try:
        request = ReconstructRequest(
            image=image,
            masks=disc,
            engine="draft",
            quality="fast",
            texture_size=256,
            outputs=("glb", "ply"),
            draft=DraftOptions(grid=32, splat_target=2000),
        )
        scene = backend.reconstruct(request).result()
    except Sam3dError as problem:
        return Check("reconstruction", "wrong", f"{problem.code}: {problem.message}", problem.hint)
    took = time.perf_counter() - start
    files = ", ".join(f"{name} {len(data) / 1024:.0f} KiB" for name, data in scene.files.items())
    return Check("reconstruction", "ok", f"a disc of {_TINY} pixels by the engine {scene.engine} in {took:.2f} s: {files}")


def _writable(out: Path) -> Check:
    """The folder itself, or the nearest one above it that exists."""
    folder = out.resolve()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        if not folder.is_dir():
            return Check("output", "wrong", f"{folder} is no folder", "Choose another one with --out.")
        check_writable(folder)
        free = shutil.disk_usage(folder).free
    except (Sam3dError, OSError) as problem:
        return Check("output", "wrong", getattr(problem, "message", str(problem)), "Choose a folder that you may write with --out.")
    return Check("output", "ok", f"{folder} can be written, {free / 2**30:.1f} GiB free")


def _learned() -> Iterator[Check]:
    """What the sam3d engine needs, as the worker's own interpreter sees it. It is wrong where it is there and doesn't work; what lacks is a note."""
    try:
        for event in run_tool("doctor"):
            yield Check(f"sam3d {event['name']}", event["state"], event["text"], event["hint"])
    except SetupError as problem:
        yield Check("sam3d", "note", f"not looked at: {problem.message}", problem.hint)
    except Sam3dError as problem:
        yield Check("sam3d", "wrong", problem.message, problem.hint)


def _print(check: Check) -> None:
    print(f"{check.state:<6} {check.name:<17} {check.text}", flush=True)
    if check.hint and check.state != "ok":
        for line in check.hint.splitlines():
            print(f"{'':<24} {line}", flush=True)
