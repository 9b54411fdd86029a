"""Layout refinement: an object's pose, brought onto its mask and the point map (spec: postprocess.md section 8).

gate.py (is the outline the object's?), align.py (size and place from the point map), icp.py (off by default), optimise.py (render and compare), then a verdict:
a new pose is taken only where its silhouette fits the mask better, by intersection over union, than what was there before; otherwise
the old one comes back, bit for bit.

Everything runs in PyTorch3D's camera axes (x left, y up, z forward), in the point map's unit, which must be the pose's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ....contract.errors import EngineError, InputError, MaskKindError, MaskSizeError
from ....contract.record import Record, limits
from ....contract.rotations import rotation_quaternions
from ....contract.scene import Mesh, Pose
from ..cleanup.decimate import decimate
from ..cleanup.repair import fit_faces
from ..cleanup.topology import compact, weld
from ..frames import P3D_TO_SCENE
from .align import Rule, align, target_points, visible_points
from .gate import occlusion
from .icp import icp
from .optimise import Move, View, Watch, optimise, rotation
from .silhouette import FADED, RADIUS, SIGMA, Lens

Array = np.ndarray

GOOD = 0.5  # a pose whose silhouette overlaps the mask less is no result
ROUNDS = 2  # of alignment with what is visible, which changes with the pose
NEAR = 2.0  # units of the optimiser from the camera to the object


@dataclass(frozen=True)
class RefineOptions(Record):
    """The defaults are ours: the spec's later revision, with a ramp and an alignment that were measured to be better. RELEASED is the published code.

    size: pixels of the longer side at which it is compared. faces: to which the mesh is thinned for it. target: which points of the map are the object's.
    align: what is measured against them, the object's `visible` side or the `whole` of it. sigma, radius, layers: the loss's silhouette
    (silhouette.py); None: the lens's own ramp, and to where it has faded. relative: steps of translation are measured in halves of the distance, not in the map's unit.
    verdict: `best`, the best fitting of the start, the aligned and the optimised pose; `strict`, the optimised one if it beats the aligned one.
    """

    size: int = limits(518, 16, 4096)
    faces: int = limits(5000, 4, 1_000_000)
    gate: bool = True
    target: Rule = "depth_edges"
    align: Literal["visible", "whole"] = "visible"
    icp: bool = False
    sigma: float | None = limits(None, 1e-9, 1.0)
    radius: float | None = limits(None, 0.0, 1.0)
    layers: int | None = limits(None, 1, 1_000_000)
    relative: bool = True
    verdict: Literal["best", "strict"] = "best"


RELEASED = RefineOptions(
    target="quantile", align="whole", icp=True, sigma=SIGMA, radius=RADIUS, layers=50, relative=False, verdict="strict"
)


@dataclass(frozen=True)
class Refined:
    """score: how well the pose that comes back fits the mask, 0..1; None where it could not be seen. report: JSON values."""

    pose: Pose
    score: float | None
    accepted: bool
    report: Mapping[str, Any]


def refine(
    mesh: Mesh,
    pose: Pose,
    mask: Array,
    pointmap: Array,
    intrinsics: Array,
    options: RefineOptions = RefineOptions(),
    device: torch.device | str = "cpu",
    watch: Watch = lambda step: None,
) -> Refined:
    """mesh: in its object's frame; pose: object -> scene, seen by the photo's camera at the origin (docs/frames.md).

    mask: bool (H, W), the picture's; pointmap: (H, W, 3) in PyTorch3D camera axes and the pose's unit, NaN where there is no point; intrinsics: (3, 3) for a
    picture of size 1 x 1. What the data doesn't allow (an empty mask, no points, no faces) leaves the pose as it is, and `report["reason"]` says so. Raises
    InputErrors for arrays of a wrong form. watch: sees every step.
    """
    mask, pointmap, intrinsics = _checked(mask, pointmap, intrinsics)
    with torch.inference_mode(False):
        try:
            vertices, faces = simplified(mesh, options.faces)
        except EngineError as problem:  # nothing of it was left
            return Refined(pose, None, False, {"accepted": False, "reason": problem.message})
        picture = Picture.of(mask, pointmap, intrinsics, options.size)
        run = Refinement(pose, vertices, faces, picture, options, torch.device(device))
        try:
            change, score = run.refined(watch)
        except _Stays as why:
            return Refined(pose, run.report["iou"].get("start"), False, {**run.report, "reason": str(why)})
    return Refined(carried(pose, change), score, True, {**run.report, "accepted": True})


class _Stays(Exception):
    """The pose stays as it is, and why."""


def _checked(mask: Any, pointmap: Any, intrinsics: Any) -> tuple[Array, Array, Array]:
    mask, pointmap, intrinsics = np.asarray(mask), np.asarray(pointmap), np.asarray(intrinsics)
    if any(array.dtype.kind not in "biuf" for array in (mask, pointmap, intrinsics)):
        raise MaskKindError("Layout refinement got something else than numbers.", "Give a mask, points and intrinsics as plain arrays.")
    if mask.ndim != 2 or mask.size == 0 or pointmap.shape != (*mask.shape, 3):
        raise MaskSizeError(
            f"Layout refinement got a mask {mask.shape} and points {pointmap.shape}.",
            "Give (H, W) and (H, W, 3), both of the picture's size.",
        )
    focals = intrinsics[[0, 1], [0, 1]] if intrinsics.shape == (3, 3) else np.zeros(2)
    if not (np.isfinite(intrinsics).all() and (focals > 0).all()):
        raise InputError(
            "Layout refinement got intrinsics that are none.", "Give (3, 3) for a picture of size 1 x 1, focal lengths above 0."
        )
    return mask > 0.5, pointmap, intrinsics.astype(np.float64)


@dataclass
class Picture:
    """The evidence, at the size at which it is compared. soft: (h, w) float32 in [0, 1]; points: (h, w, 3), NaN where there is none."""

    soft: Tensor
    points: Array
    lens: Lens

    @staticmethod
    def of(mask: Array, pointmap: Array, intrinsics: Array, size: int) -> Picture:
        """The longer side becomes `size`: the picture as if padded to a square. The mask by bilinear, the points by nearest neighbours."""
        height, width = (max(1, round(n * size / max(mask.shape))) for n in mask.shape)
        soft = torch.nn.functional.interpolate(torch.from_numpy(mask.astype(np.float32))[None, None], (height, width), mode="bilinear")[
            0, 0
        ]
        rows, columns = (np.arange(want) * have // want for have, want in zip(mask.shape, (height, width)))
        points = pointmap[rows[:, None], columns].astype(np.float32)
        points[~(np.isfinite(points).all(axis=-1) & (points[..., 2] > 0))] = np.nan
        return Picture(soft, points, Lens.of(intrinsics, height, width, max(height, width)))


def simplified(mesh: Mesh, budget: int) -> tuple[Array, Array]:
    """Equal positions welded, unfit and doubled faces dropped, at most `budget` faces -> vertices float64 (V, 3), faces int64 (F, 3)."""
    rows, place = weld(mesh.vertices)
    faces, _ = fit_faces(mesh.vertices[rows], place[mesh.faces].reshape(-1, 3))
    vertices, faces, _ = compact(mesh.vertices[rows].astype(np.float64), faces)
    if len(faces) <= budget:
        return vertices, faces
    low, extent = vertices.min(axis=0), max(float(np.ptp(vertices, axis=0).max()), 1e-30)
    thin = decimate((vertices - low) / extent - 0.5, faces, budget)
    return (thin.vertices + 0.5) * extent + low, thin.faces


def homogeneous(scale: float, turn: Array, shift: Array) -> Array:
    """x -> scale * turn @ x + shift, as (4, 4)."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = scale * turn, shift
    return out


def moved(matrix: Array, points: Array) -> Array:
    out: Array = points @ matrix[:3, :3].T + matrix[:3, 3]
    return out


def as_matrix(move: Move, centre: Array, unit: float = 1.0) -> Array:
    """A move about `centre` (3,) as (4, 4), float64, for column vectors. unit: that of the move's translation."""
    turn = float(move.scale) * rotation(move.quat.detach().cpu().double()).numpy()
    return homogeneous(1.0, turn, centre - turn @ centre + unit * move.translation.detach().cpu().double().numpy())


def carried(pose: Pose, change: Array) -> Pose:
    """The pose, then a similarity (4, 4) in PyTorch3D's camera axes."""
    flip = homogeneous(1.0, P3D_TO_SCENE, np.zeros(3))
    matrix = flip @ change @ flip.T @ pose.matrix()
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    return Pose(tuple(rotation_quaternions(matrix[:3, :3] / scale).tolist()), tuple(matrix[:3, 3].tolist()), scale)


@dataclass(frozen=True)
class State:
    """Where the object is: vertices float64 (V, 3) and its middle (3,) in camera axes, and the change (4, 4) that brought it there."""

    vertices: Array
    centre: Array
    change: Array = field(default_factory=lambda: np.eye(4))

    def then(self, matrix: Array) -> State:
        return State(moved(matrix, self.vertices), moved(matrix, self.centre), matrix @ self.change)


@dataclass
class Refinement:
    """One object. vertices float64 (V, 3) in the object's frame; faces int64 (F, 3). report is filled on the way. The golden files are replayed through its steps."""

    pose: Pose
    vertices: Array
    faces: Array
    picture: Picture
    options: RefineOptions
    device: torch.device
    report: dict[str, Any] = field(default_factory=lambda: {"accepted": False, "reason": "", "iou": {}, "icp": False, "steps": 0})

    def __post_init__(self) -> None:
        self.corners, self.soft = torch.from_numpy(self.faces).to(self.device), self.picture.soft.to(self.device)
        self.unit = 1.0

    @property
    def start(self) -> State:
        """Where the old pose puts the object."""
        return State(self.pose.apply(self.vertices) @ P3D_TO_SCENE, np.asarray(self.pose.translation) @ P3D_TO_SCENE)

    @property
    def target(self) -> Array:
        """The point map's points of the object (M, 3)."""
        return target_points(self.picture.points, self.picture.soft.numpy() > 0, self.options.target)

    def refined(self, watch: Watch) -> tuple[Array, float]:
        """The better pose as a change (4, 4) of the old one, in camera axes, and its score. Raises _Stays."""
        report, options = self.report, self.options
        report["faces"] = len(self.faces)
        if len(self.faces) == 0:
            raise _Stays("the mesh has no faces")
        report["iou"]["start"] = self.view(self.start).iou()
        if options.gate and (reason := occlusion(self.picture.soft.numpy() > 0.5, self.picture.points[..., 2])):
            raise _Stays(reason)
        target = self.target
        aligned = self.aligned(self.start, target)
        report["iou"]["aligned"] = self.view(aligned).iou()
        base = self.registered(aligned, target) if options.icp else aligned
        if options.relative:
            self.unit = max(float(base.centre[2]), 1e-6) / NEAR
        view = self.view(base)
        move, report["steps"] = optimise(view, watch)
        report["iou"]["end"] = view.iou(move)
        end = base.then(as_matrix(move, base.centre, self.unit))
        return self.verdict({"aligned": base, "end": end})

    def verdict(self, found: Mapping[str, State]) -> tuple[Array, float]:
        scores, best = self.report["iou"], "end"
        if self.options.verdict == "best":
            scores["aligned"] = max(scores["aligned"], scores.get("icp", 0.0))
            best = "end" if scores["end"] > scores["aligned"] else "aligned"
        if scores[best] < GOOD:
            raise _Stays("the silhouette found fits the mask badly")
        if scores[best] <= scores["start" if self.options.verdict == "best" else "aligned"]:
            raise _Stays("the silhouette found fits the mask no better")
        self.report["taken"] = best
        return found[best].change, scores[best]

    def view(self, state: State) -> View:
        """As the optimiser sees it, in its unit."""
        points, centre = (torch.from_numpy((a / self.unit).astype(np.float32)).to(self.device) for a in (state.vertices, state.centre))
        options, lens = self.options, self.picture.lens
        sigma = lens.ramp if options.sigma is None else options.sigma
        radius = FADED * sigma if options.radius is None else options.radius
        return View(points, self.corners, centre, self.soft, lens, radius, sigma, options.layers)

    def aligned(self, state: State, target: Array) -> State:
        for _ in range(ROUNDS if self.options.align == "visible" else 1):
            source = state.vertices
            if self.options.align == "visible":
                seen = visible_points(state.vertices, self.faces, self.picture.lens, self.device)
                chosen = target_points(seen, np.isfinite(seen).all(axis=-1), self.options.target)
                source = chosen if len(chosen) else source
            found = align(source, target)
            if found is None:
                raise _Stays("the point map has too few points under the mask to measure")
            state = state.then(homogeneous(found[0], np.eye(3), found[1]))
        return state

    def registered(self, state: State, target: Array) -> State:
        """By ICP, where that fits better."""
        made = state.then(icp(state.vertices, target).matrix)
        self.report["iou"]["icp"] = self.view(made).iou()
        self.report["icp"] = self.report["iou"]["icp"] > self.report["iou"]["aligned"]
        return made if self.report["icp"] else state
