"""Replay of the kind `fill_holes` of golden/postprocess: visibility, the cut with all its intermediates, the holes closed.

Bounds as that folder's README has them. What the fill itself looks like isn't pinned there, only that the result is the same body:
topology, volume, the kept faces as they were, and a surface beside the recorded one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from comfyui_sam3d.worker.geometry.cleanup import error, holes, mincut, repair, topology, visibility
from safetensors import safe_open

EXACT = ("inner", "outer", "candidate", "removed")


def differences(path: Path) -> list[str]:
    """What doesn't fit in one file, in words."""
    with safe_open(str(path), "np") as file:
        x = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        meta = file.metadata()
    vertices, faces = x["in.vertices"], x["in.faces"].astype(np.int64)
    views, size, edges = (int(meta[name]) for name in ("num_views", "resolution", "max_hole_nbe"))
    limit = float(meta["max_hole_size"])
    seen = visibility.visibility(vertices, faces, views, size)
    cut = mincut.cut_inner(vertices, faces, seen, limit)
    wrong = [f"own visibility: {text}" for text in _whole(x, vertices, faces, cut.removed, edges, 1e-3)]
    if "mid.visibility" in x:
        wrong += _visibility(seen, x["mid.visibility"], views)
        cut = mincut.cut_inner(vertices, faces, x["mid.visibility"], limit)
        wrong += _cut(x, cut)
    return wrong + _whole(x, vertices, faces, cut.removed, edges, 3e-4)


def _visibility(seen: np.ndarray, wanted: np.ndarray, views: int) -> list[str]:
    """The edge rules of two rasterisers differ: at most one view, on at most one face in a hundred."""
    apart = np.abs(seen - wanted)
    few, small = (apart > 1e-6).mean() <= 0.01, apart.max() <= 1 / views + 1e-6
    return [] if few and small else [f"visibility differs on {(apart > 1e-6).sum()} faces, by up to {apart.max() * views:.1f} views"]


def _cut(x: dict[str, np.ndarray], cut: mincut.Cut) -> list[str]:
    wrong = [
        f"{name}: {(getattr(cut, name) != x[f'mid.{name}']).sum()} faces differ"
        for name in EXACT
        if (getattr(cut, name) != x[f"mid.{name}"]).any()
    ]
    if abs(cut.flow - float(x["mid.flow"])) > 1e-4:
        wrong.append(f"the flow is {cut.flow}, not {float(x['mid.flow'])}")
    ours = x["mid.component"]
    whose = x.get("mid.loop_component", np.arange(len(x["mid.loop_area"])))
    if len(cut.parts) != len(x["mid.accepted"]):
        return [*wrong, f"{len(cut.parts)} candidate components, not {len(x['mid.accepted'])}"]
    for part in cut.parts:  # numbered in an order of its own
        names = np.unique(ours[part.faces])
        if len(names) != 1 or (ours == names[0]).sum() != len(part.faces):
            wrong.append(f"a candidate component of {len(part.faces)} faces isn't one of the recorded ones")
            continue
        number = int(names[0])
        if part.accepted != bool(x["mid.accepted"][number]):
            wrong.append(f"component {number}: accepted is {part.accepted}")
        if abs(part.median - float(x["mid.median_visibility"][number])) > 1e-6:
            wrong.append(f"component {number}: median visibility {part.median}")
        for name, got in (("loop_area", part.loop_areas), ("loop_length", part.loop_lengths)):
            want = np.sort(x[f"mid.{name}"][whose == number])
            if len(want) != len(got) or (np.abs(np.sort(got) - want) > 1e-5).any():
                wrong.append(f"component {number}: {name} {np.sort(got)}, not {want}")
    return wrong


def _whole(
    x: dict[str, np.ndarray], vertices: np.ndarray, faces: np.ndarray, removed: np.ndarray, edges: int, tolerance: float
) -> list[str]:
    """The mesh after the fill against the recorded one, with and without refinement."""
    want = x["out.vertices"], x["out.faces"].astype(np.int64)
    left, fewer, _ = topology.compact(vertices, faces[~removed])
    left, fewer, _, split = repair.split_crowded(left, fewer)
    wrong = [f"{split} vertices were split"] * (split > 0)
    for refine in (True, False):
        made = holes.fill_holes(left, fewer, edges, refine)
        wrong += [f"refine={refine}: {text}" for text in _against(made, len(fewer), want, tolerance, refine)]
    return wrong


def _against(made: holes.Filled, kept: int, want: tuple[np.ndarray, np.ndarray], tolerance: float, refine: bool) -> list[str]:
    have = topology.soundness(made.vertices, made.faces)
    goal = topology.soundness(*want)
    wrong = [] if have == goal else [f"{have}, not {goal}"]
    volume, target = (float(topology.signed_volumes(*mesh)[0]) for mesh in ((made.vertices, made.faces), want))
    if abs(volume - target) > tolerance * abs(target):
        wrong.append(f"volume {volume}, not {target}")
    plain = sum(n - 2 for n in made.closed)
    most = 1.25 * (len(want[1]) - kept) if refine else plain
    if not plain <= len(made.faces) - kept <= max(most, plain):
        wrong.append(f"{len(made.faces) - kept} faces close the holes, not {plain} to {most}")
    recorded = {row.tobytes() for row in want[0]}
    if tolerance < 5e-4 and not all(row.tobytes() in recorded for row in made.vertices[np.unique(made.faces[:kept])]):
        wrong.append("a kept vertex isn't where it was")
    apart = error.surface_error((made.vertices, made.faces), want, 2000)
    if apart.max > 0.01:
        wrong.append(f"the surface is {apart.max:.4f} of its size away")
    return wrong


KINDS = {"fill_holes": differences}
