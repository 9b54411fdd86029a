"""How golden/postprocess's layout files are replayed, with the bounds of the README beside them.

The thirty steps of the published code are chaotic: noise of 1e-6 on the vertices moves the end by up to 6e-2. So the loss, its gradients and the first steps are held tightly
(`layout_loss_grad`, `layout_steps`), the way up to the optimiser too, and its end only loosely.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import torch
from comfyui_sam3d.contract.scene import Mesh
from comfyui_sam3d.vendor.moge import focal
from comfyui_sam3d.worker.geometry.frames import from_sam3d_pose, to_sam3d_pose
from comfyui_sam3d.worker.geometry.layout import gate, icp, optimise, silhouette
from comfyui_sam3d.worker.geometry.layout.refine import RELEASED, Picture, Refinement, refine, simplified
from scipy.spatial import cKDTree

SLACK = 0.05  # of IoU: within it, upstream itself accepts in one run and rejects in the next
PARTS = ("quat", "translation", "scale")


class Check:
    """Collects what differs."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def near(self, name: str, got, want, bound: float, relative: bool = False) -> None:
        """relative: to the largest entry."""
        got, want = torch.as_tensor(got).double(), torch.as_tensor(want).double()
        if got.shape != want.shape:
            self.wrong.append(f"{name} has shape {tuple(got.shape)}, not {tuple(want.shape)}")
            return
        apart = float((got - want).abs().nan_to_num(nan=float("inf")).max()) / (float(want.abs().max()) or 1.0 if relative else 1.0)
        if apart > bound:
            self.wrong.append(f"{name} differs by {apart:.3g} (allowed {bound:g})")

    def same(self, name: str, got, want) -> None:
        if got != want:
            self.wrong.append(f"{name} is {got}, not {want}")

    def points(self, name: str, got, want, bound: float) -> None:
        """As sets: welding may number them otherwise."""
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        self.same(f"{name}: points", len(got), len(want))
        apart = max(cKDTree(a).query(b)[0].max() for a, b in ((got, want), (want, got)))
        if not apart <= bound:
            self.wrong.append(f"{name} differs by {apart:.3g} (allowed {bound:g})")


def primitives(x, meta):
    check = Check()
    move = optimise.Move(x["apply.in.quat"], x["apply.in.translation"], x["apply.in.scale"])
    check.near("apply", move.apply(x["apply.in.verts"], x["apply.in.center"]), x["apply.out.verts"], 1e-5)
    alpha, mask = x["loss.in.rendered"][0, ..., 3], x["loss.in.mask"][0, 0]
    check.near("loss", optimise.loss(alpha, mask, move), x["loss.out"], 1e-5 * float(x["loss.out"]))
    check.near("iou", optimise.iou(alpha, mask), x["iou.out"], 1e-5)
    lens = silhouette.Lens.of(x["K.in"], 40, 60)
    wanted = x["K.out_h40_w60"]
    check.near("focal", lens.focal, [wanted[0, 0], wanted[1, 1]], 1e-5)
    check.near("centre", lens.centre, [wanted[0, 2], wanted[1, 2]], 1e-5)
    for name in {key.split(".")[1] for key in x if key.startswith("occ.")}:
        reason = gate.occlusion(x[f"occ.{name}.mask"].numpy(), x[f"occ.{name}.z"].numpy())
        check.same(f"occlusion {name} ({reason})", bool(reason), bool(x[f"occ.{name}.flag"]))
    points = x["intr.in.points"].numpy()
    found = focal.recover(points)
    aspect = points.shape[1] / points.shape[0]
    check.near("focal and shift", found, x["intr.true_focal_shift"], 1e-5)
    check.near("intrinsics, with the original's swap", focal.intrinsics(found[1], aspect), x["intr.out.head_intrinsics_swapped"], 1e-5)
    return check.wrong


def _view(x, verts=None):
    height, width = x["in.mask"].shape
    lens = silhouette.Lens.of(x["in.intrinsics_norm"], height, width)
    return optimise.View(
        x["in.verts"] if verts is None else verts,
        x["in.faces"],
        x["in.center"],
        x["in.mask"],
        lens,
        silhouette.RADIUS,
        silhouette.SIGMA,
        50,
    )


def loss_grad(x, meta):
    check = Check()
    weights = json.loads(meta["loss_weights"])
    weights = torch.tensor([weights[name] for name in ("mask", "reg_q", "reg_t", "reg_s")])
    for point in json.loads(meta["points"]):
        want = {name: x[f"{point}.out.{name}"] for name in ("verts", "alpha", "loss", "terms", "iou", "grad_verts")}
        move = optimise.Move(*(x[f"{point}.in.{name}"] for name in PARTS))
        verts = x["in.verts"].clone().requires_grad_()
        view = _view(x, verts)
        alpha = view.silhouette(move)
        terms = optimise.terms(alpha, view.mask, move)
        check.near(f"{point}: moved vertices", move.apply(verts, view.centre).detach(), want["verts"], 1e-6)
        check.near(f"{point}: alpha", alpha.detach(), want["alpha"], 3e-4)
        check.near(f"{point}: terms", terms.detach(), want["terms"], 2e-6)
        check.near(f"{point}: weights", (terms * weights).sum().detach(), want["loss"], 3e-4)
        check.near(f"{point}: iou", view.iou(move), want["iou"], 1e-6)
        (gradient,) = torch.autograd.grad(optimise.loss(alpha, view.mask, move), verts)
        check.near(f"{point}: grad_verts", gradient, want["grad_verts"], 5e-3, relative=True)
        loss, gradients = optimise.evaluate(_view(x), move)
        check.near(f"{point}: loss", loss, want["loss"], 3e-4)
        values = [value.clone().requires_grad_() for value in move]
        regulariser = (optimise.terms(view.mask, view.mask, optimise.Move(*values)) * weights).sum()
        rest = dict(zip(PARTS, torch.autograd.grad(regulariser, values)))
        for name in PARTS:
            whole = x[f"{point}.out.grad_{name}"]
            check.near(f"{point}: grad_{name}", gradients[name], whole, 5e-3, relative=True)
            check.near(f"{point}: the regulariser's grad_{name}", rest[name], whole - x[f"{point}.out.gradmask_{name}"], 1e-5)
    return check.wrong


def steps(x, meta):
    check = Check()
    adam = json.loads(meta["adam"])
    for name, (_, rate, parts) in zip("AB", optimise.STAGES):
        seen: list[optimise.Step] = []
        optimise.stage(_view(x), optimise.Move.none(x["in.verts"]), float("inf"), len(x[f"{name}.loss"]), rate, parts, seen.append)
        count = len(x[f"{name}.quat"])
        check.near(f"{name}: loss", [step.loss for step in seen], x[f"{name}.loss"], 3e-4)
        check.near(f"{name}: rate", [step.rate for step in seen[:count]], x[f"{name}.lr"], 1e-9)
        check.same(f"{name}: Adam", [rate, *optimise.BETAS, optimise.EPSILON], [adam[f"lr_{name}"], *adam["betas"], adam["eps"]])
        for part in PARTS:
            values = torch.stack([getattr(step.move, part) for step in seen[:count]])
            check.near(f"{name}: {part}", values, x[f"{name}.{part}"], 1e-4)
        for part in parts:
            for key, got, bound in (("grad", "gradients", 5e-3), ("m", "first", 5e-3), ("v", "second", 1e-2)):
                have = torch.stack([getattr(step, got)[part] for step in seen[:count]])
                check.near(f"{name}: {key}_{part}", have, x[f"{name}.{key}_{part}"], bound, relative=True)
        if f"{name}.quat_unit" in x:
            unit = torch.stack([step.move.quat / step.move.quat.norm() for step in seen[:count]])
            check.near(f"{name}: unit quaternion", unit, x[f"{name}.quat_unit"], 1e-4)
    return check.wrong


def post_opt(x, meta):
    check = Check()
    arrays = {name: value.numpy() for name, value in x.items()}
    options = dataclasses.replace(RELEASED, size=int(meta["min_size"]))
    mesh = Mesh(arrays["in.glb_vertices"], arrays["in.glb_faces"].astype(np.uint32))
    pose = from_sam3d_pose(*(arrays[f"in.{name}"][0] for name in PARTS))
    evidence = arrays["in.mask"] > 0.5, arrays["in.pointmap"], arrays["in.intrinsics_norm"]
    run = Refinement(pose, *simplified(mesh, options.faces), Picture.of(*evidence, options.size), options, torch.device("cpu"))
    _stages(check, arrays, run)
    for prefix, with_icp in (("out", True), ("noicp", False)):
        made = refine(mesh, pose, *evidence, dataclasses.replace(options, icp=with_icp))
        _end(check, prefix, arrays, pose, made)
        if with_icp:
            check.same("ICP accepted", made.report["icp"], bool(arrays["out.flag_icp"]))
            check.near("stage 2: iou", made.report["iou"]["icp"], arrays["stage2.iou"], 1e-4)
    return check.wrong


def _stages(check, x, run):
    check.near("stage 0: mask", run.picture.soft, x["stage0.mask_resized"][0, 0], 1e-4)
    check.same(
        "stage 0: occluded",
        bool(gate.occlusion(run.picture.soft.numpy() > 0.5, run.picture.points[..., 2])),
        bool(x["stage0.occluded_flag"]),
    )
    check.same("stage 0: faces", len(run.faces), len(x["stage0.faces"]))
    check.points("stage 0: vertices", run.start.vertices, x["stage0.verts"], 1e-4)
    check.near("stage 0: alpha", run.view(run.start).silhouette(optimise.Move.none(run.soft)), x["stage0.silhouette_alpha"], 1e-4)
    check.near("stage 1: target", run.target, x["stage1.target_points"], 1e-4)
    aligned = run.aligned(run.start, run.target)
    check.near("stage 1: matrix", aligned.change.T[None], x["stage1.matrix_row"], 1e-4)
    check.near("stage 1: centre", aligned.centre, x["stage1.center"], 1e-4)
    check.points("stage 1: vertices", aligned.vertices, x["stage1.verts"], 1e-4)
    check.near("stage 1: iou", run.view(aligned).iou(), x["stage1.iou"], 1e-4)
    matrix = icp.icp(aligned.vertices, run.target).matrix
    check.near("stage 2: matrix", matrix, x["stage2.icp_matrix_col"], 1e-3)
    check.points("stage 2: vertices", aligned.then(matrix).vertices, x["stage2.verts"], 1e-3)


def _end(check, prefix, x, pose, made):
    scores = made.report["iou"]
    check.same(f"{prefix}: the rule", made.accepted, scores["end"] >= 0.5 and scores["end"] > scores["aligned"])
    accepted = bool(x[f"{prefix}.flag_optim"])
    if made.accepted != accepted:
        if abs(scores["end"] - scores["aligned"]) > SLACK:
            check.same(f"{prefix}: accepted, far from the limit", made.accepted, accepted)
        return
    quat, translation, scale = to_sam3d_pose(made.pose)
    want = x[f"{prefix}.quat"][0]
    bounds = (0.1, 0.1, 0.05, 0.15) if accepted else (1e-6, 1e-6, 1e-6, 1e-3)
    check.near(f"{prefix}: quaternion", quat * np.sign(quat @ want), want, bounds[0])
    check.near(f"{prefix}: translation", translation, x[f"{prefix}.translation"][0], bounds[1])
    check.near(f"{prefix}: scale", np.full(3, scale), x[f"{prefix}.scale"][0], bounds[2])
    check.near(f"{prefix}: iou", scores["end" if accepted else "aligned"], x[f"{prefix}.iou"], bounds[3])
    if not accepted:
        check.same(f"{prefix}: the pose is the old one", made.pose is pose, True)


KINDS = {"layout_primitives": primitives, "layout_loss_grad": loss_grad, "layout_steps": steps, "layout_post_opt": post_opt}
