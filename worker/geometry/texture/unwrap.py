"""UV unwrapping: xatlas in a child process with a time limit, or box charts of our own.

xatlas makes better charts, but crashes on some meshes, takes minutes on others and holds the interpreter lock meanwhile; so it is never
loaded into the worker. Whatever happens to the child, there is an atlas: `auto` falls back to boxes.py and says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, Literal

import numpy as np
import torch

from ....contract.errors import EngineError, InputError, SetupError
from ...job import Job
from .boxes import box_charts

CHILD = Path(__file__).with_name("xatlas_child.py")
TICK = 0.1  # seconds between two looks at the child and at the job
LINGER = 2.0  # seconds that a child may outlive its output
STAGE = "unwrap"


@dataclass(frozen=True)
class Unwrapped:
    """A mesh whose vertices are split along chart borders.

    source: int64 (V',), the old vertex of each new one; faces: int64 (F, 3), in the old order; uvs: float32 (V', 2), glTF's, (0, 0) the
    texture's top left corner; charts: int64 (F,), which chart a face lies in; method: `xatlas` or `box`; note: why xatlas wasn't used, or
    empty.
    """

    source: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    charts: np.ndarray
    method: str
    note: str = ""


def unwrap(
    vertices: np.ndarray,
    faces: np.ndarray,
    job: Job,
    *,
    method: Literal["auto", "xatlas", "box"] = "auto",
    size: int = 1024,
    padding: int = 4,
    limit: float = 60.0,
    device: torch.device | str = "cpu",
) -> Unwrapped:
    """Vertices (V, 3) and faces (F, 3) -> charts packed for a size x size texture with at least `padding` texels between any two.

    limit: seconds for xatlas. device: where box charts look for overlaps. Raises InputError for a mesh without faces or with values that aren't finite; with method `xatlas`,
    SetupError where it isn't installed and EngineError where it fails; EngineError where there are more box charts than the texture has
    room for; JobCancelled from the job.
    """
    vertices = np.ascontiguousarray(vertices, np.float32)
    faces = np.ascontiguousarray(faces, np.int64)
    if len(faces) == 0 or not np.isfinite(vertices).all():
        raise InputError("A mesh without faces, or with vertices that aren't finite, can't be unwrapped.", "Clean the mesh first.")
    note = ""
    if method != "box":
        try:
            return _checked(_ask_xatlas(vertices, faces, job, size, padding, limit), len(vertices), faces)
        except (SetupError, EngineError) as problem:
            if method == "xatlas":
                raise
            note = f"{problem.message} Box charts were used instead."
            job.log(note, "warning")
    source, new_faces, uvs, charts = box_charts(vertices, faces, size=size, padding=padding, device=device)
    return Unwrapped(source, new_faces, uvs, charts, "box", note)


def _checked(arrays: list[np.ndarray], count: int, faces: np.ndarray) -> Unwrapped:
    """What a crash-prone library says is looked at before it is used."""
    source, new_faces, uvs, charts = (array.astype(kind) for array, kind in zip(arrays, (np.int64, np.int64, np.float32, np.int64)))
    good = (
        new_faces.shape == faces.shape
        and charts.shape == (len(faces),)
        and uvs.shape == (len(source), 2)
        and new_faces.min() >= 0
        and new_faces.max() < len(source)
        and source.max() < count
        and np.array_equal(source[new_faces], faces)
        and bool(np.isfinite(uvs).all())
        and uvs.min() >= 0
        and uvs.max() <= 1
        and bool((charts >= 0).any())
    )
    if not good:
        raise EngineError("xatlas returned an atlas that doesn't belong to this mesh.", "Use box charts.")
    return Unwrapped(*_adopted(source, new_faces, uvs, charts), "xatlas")


def _adopted(source: np.ndarray, faces: np.ndarray, uvs: np.ndarray, charts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Faces that xatlas left out (chart -1, slivers as a rule) have their UVs in the texture's corner. They join the chart that most of
    their vertices lie in; a vertex that doesn't takes the place of one that does: a line or a point in the texture, but of the right
    colour."""
    left_out = np.flatnonzero(charts < 0)
    if not len(left_out):
        return source, faces, uvs, charts
    faces, charts = faces.copy(), charts.copy()
    used = np.full(len(source), -1)
    used[faces[charts >= 0]] = charts[charts >= 0, None]
    somewhere = int(np.flatnonzero(used >= 0)[0])
    at: dict[int, dict[int, int]] = {}  # old vertex -> chart -> new vertex
    for vertex in np.flatnonzero(used >= 0).tolist():
        at.setdefault(int(source[vertex]), {})[int(used[vertex])] = vertex
    more_source, more_uvs = [], []
    for face in left_out.tolist():
        corners = [at.get(int(old), {}) for old in source[faces[face]]]
        offered = {chart for corner in corners for chart in corner}
        # An island of slivers has no neighbour at all: any place will do.
        chart = max(offered, key=lambda c: sum(c in corner for corner in corners)) if offered else int(used[somewhere])
        stand_in = next((corner[chart] for corner in corners if chart in corner), somewhere)
        for number, corner in enumerate(corners):
            if chart in corner:
                faces[face, number] = corner[chart]
            else:
                more_source.append(source[faces[face, number]])
                more_uvs.append(uvs[stand_in])
                faces[face, number] = len(source) + len(more_source) - 1
        charts[face] = chart
    if more_source:
        source, uvs = np.concatenate([source, more_source]), np.concatenate([uvs, np.stack(more_uvs)])
    return source, faces, uvs, charts


def _ask_xatlas(vertices: np.ndarray, faces: np.ndarray, job: Job, size: int, padding: int, limit: float) -> list[np.ndarray]:
    if importlib.util.find_spec("xatlas") is None:
        raise SetupError("xatlas isn't installed.", "Run: python install.py, or use box charts.")
    settings = np.array([limit, size, padding], np.float64)
    answer: list[np.ndarray] = []
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-I", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert child.stdin is not None and child.stdout is not None
        start = time.monotonic()
        threads = [
            threading.Thread(target=_send, args=(child.stdin, [settings, vertices, faces.astype(np.uint32)]), daemon=True),
            threading.Thread(target=_receive, args=(child.stdout, answer), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            while threads[1].is_alive() and (spent := time.monotonic() - start) < limit:
                job.step(STAGE, int(100 * spent / limit), 100)  # may raise JobCancelled
                threads[1].join(TICK)
            if not threads[1].is_alive() and len(answer) < 4:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(LINGER)  # it is about to end by itself, and its code says why
        finally:
            child.kill()  # with its answer in our hands, too late, or cancelled: it has nothing left to do
            code = child.wait()
            for thread in threads:
                thread.join()
            with contextlib.suppress(OSError):  # what couldn't be written any more
                child.stdin.close()
            child.stdout.close()
        log.seek(0)
        said = log.read().decode("utf-8", "replace").strip()
    if len(answer) == 4:
        return answer
    if time.monotonic() - start >= limit:
        raise EngineError(f"xatlas didn't finish within {limit:g} s.", "Decimate the mesh further, or use box charts.", detail=said)
    raise EngineError(f"xatlas ended with code {code}.", "Use box charts.", detail=said)


def _send(stream: BinaryIO, arrays: list[np.ndarray]) -> None:
    """A bare `write` keeps numpy from seeking, which a pipe can't do. Stdin stays open afterwards: its end would tell the child that we
    are gone."""
    with contextlib.suppress(OSError):
        for array in arrays:
            np.lib.format.write_array(SimpleNamespace(write=stream.write), array, allow_pickle=False)
        stream.flush()


def _receive(stream: BinaryIO, answer: list[np.ndarray]) -> None:
    with contextlib.suppress(OSError, ValueError, EOFError):  # it broke off: the exit code says more
        for _ in range(4):
            answer.append(np.lib.format.read_array(SimpleNamespace(read=stream.read), allow_pickle=False))
