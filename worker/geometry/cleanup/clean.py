"""The raw mesh of the decoder -> a closed mesh within a face budget (spec: postprocess.md 2).

The order, and why. Whole bodies go first, on the raw mesh: floaters by size, and shells inside a closed body by their winding number, so
that no budget is spent on them. Then the mesh is thinned to some ten thousand faces: visibility needs faces larger than a pixel, and the
cut a graph of a size that it can be solved for. There, inner faces are cut off, holes closed, and the rest is thinned to the budget. (The
original thins first as well, but straight to the end, inner faces and all.) Colours and the error come from the raw surface, of which only
what the cut left counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ....contract.errors import EngineError, InputError, OptionError
from ....contract.record import Record, array, limits
from ....contract.scene import Mesh
from ...job import Job, QuietJob
from . import attributes, components, decimate, error, holes, hull, lods, mincut, nearest, repair, smooth, tensors, topology
from .tensors import placed, plain
from .topology import Array
from .visibility import fitting_size, visibility

STAGE = "clean-up"
STEPS = ("weld", "bodies", "smooth", "thin", "visibility", "cut", "holes", "decimate", "colors", "error", "lods")
MOST_SHOWN = 0.5  # a cut that takes more than this of all that is seen has gone wrong
FEW_THREADS = 4
DETAIL = (40_000, 120_000)  # faces between which the mesh is looked at from all sides


@dataclass(frozen=True)
class RawMesh(Record):
    """vertices in the object's own frame, z up. faces counter-clockwise seen from outside. colors: sRGB in 0..1, C = 3 or 4."""

    vertices: np.ndarray = array("float32", "V 3")
    faces: np.ndarray = array("int64", "F 3")
    colors: np.ndarray | None = array("float32", "V C", optional=True)

    def check(self) -> None:
        if self.colors is not None and self.colors.shape[1] not in (3, 4):
            raise InputError(f"Vertex colours have {self.colors.shape[1]} channels.", "Give three (RGB) or four (RGBA).")


@dataclass(frozen=True)
class CleanOptions(Record):
    """What a clean-up takes away, and how much it leaves.

    budget: the most faces that may be left; None: no thinning.
    smallest_body: bodies with less than this share of the largest one's area are floaters.
    remove_inner: take away what can't be seen from outside.
    views, view_size: square pictures for that, and their pixels; None: 1000 of 1024 on a GPU, 100 of 256 on a CPU, larger where faces are
        smaller than a pixel.
    max_hole_area: of a hole that the cut may open, where the object's longest side is 1.
    max_hole_edges: holes with more edges stay open.
    smooth: rounds of Taubin smoothing.
    lods: face budgets of further meshes.
    hull_vertices: the most vertices of a convex collision hull; None: no hull.
    samples: points of each surface for the error; 0: not measured.
    """

    budget: int | None = limits(20_000, 4, 10_000_000)
    smallest_body: float = limits(0.005, 0.0, 1.0)
    remove_inner: bool = True
    views: int | None = limits(None, 1, 10_000)
    view_size: int | None = limits(None, 16, 4096)
    max_hole_area: float = limits(0.04, 0.0, 10.0)
    max_hole_edges: int = limits(55, 0, 10_000)
    smooth: int = limits(0, 0, 1000)
    lods: tuple[int, ...] = ()
    hull_vertices: int | None = limits(None, 4, 10_000)
    samples: int = limits(10_000, 0, 10_000_000)

    def check(self) -> None:
        if any(budget < 4 for budget in self.lods):
            raise OptionError("A level of detail can't have fewer than 4 faces.", "Give larger budgets, or none to leave the levels out.")


@dataclass(frozen=True)
class Cleaned:
    """mesh: in the frame of the raw one, with uint8 vertex colours where it had any. report: JSON values, see `clean`. lods: one mesh for
    each budget asked for.
    """

    mesh: Mesh
    report: Mapping[str, Any]
    lods: tuple[Mesh, ...] = ()
    hull: Mesh | None = None


@dataclass
class _Run:
    """What one clean-up finds out on its way."""

    job: Job
    report: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.job.step(STAGE, STEPS.index(name), len(STEPS))
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


@dataclass(frozen=True)
class _Unit:
    """The frame that limits and cameras are meant in: the object's longest side is 1 and its middle the origin."""

    middle: Array
    size: float

    def enter(self, raw: _Raw) -> _Raw:
        vertices, faces = raw
        if isinstance(vertices, Tensor) and isinstance(faces, Tensor):
            return (vertices.double() - placed(self.middle, vertices.device)) / self.size, faces
        return (plain(vertices).astype(np.float64) - self.middle) / self.size, plain(faces)

    def leave(self, vertices: Array) -> Array:
        moved: Array = (vertices.astype(np.float64) * self.size + self.middle).astype(np.float32)
        return moved


def clean(mesh: RawMesh | Mesh, options: CleanOptions | None = None, job: Job | None = None, device: torch.device | str = "cpu") -> Cleaned:
    """Floaters and inner surface gone, holes closed, faces within the budget and outwards, colours carried over.

    device: where visibility, large meshes, colours and the error are computed; for one that isn't CUDA's, the CPU (Apple's GPUs have no
    float64). job: told between steps; lets its JobCancelled pass. Raises InputError for a mesh without a usable face.

    report: faces_before, faces_after, dropped (faces by reason), bodies_before, bodies_after, floaters, inner_bodies, inner_faces,
    holes_closed and holes_left (edges of each), split_vertices, turned_bodies, closed, boundary_edges, euler, genus, volume,
    budget_reached, error (see SurfaceError; None where not measured), hull, lods, seconds (by step), notes (what isn't as asked for, in
    words).
    """
    able = device if torch.device(device).type == "cuda" else "cpu"
    with _few_threads:
        return _cleaned(mesh, options or CleanOptions(), _Run(job or QuietJob()), able)


class _FewThreads:
    """One torch thread where there are few: the tensors are small, and two threads that wait for a busy core take ten times as long.

    Several clean-ups may be at it at once: new threads inherit the number of the process, so only the first one in sees the usual one.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._usual = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._usual = torch.get_num_threads()
            if self._usual <= FEW_THREADS:
                torch.set_num_threads(1)

    def __exit__(self, *problem: object) -> None:
        with self._lock:
            self._inside -= 1
            torch.set_num_threads(self._usual)


_few_threads = _FewThreads()


def _resident(device: torch.device | str) -> bool:
    """Whether the raw mesh is held there, as tensors."""
    return torch.device(device).type == "cuda"


def _cleaned(mesh: RawMesh | Mesh, options: CleanOptions, run: _Run, device: torch.device | str) -> Cleaned:
    entered, colors = _entered(mesh)
    run.report["faces_before"] = len(entered[1])
    with run.step("weld"):
        welded, colors = _welded(entered, colors, run, device)
        unit = _Unit(*_box(welded[0]))
        raw = unit.enter(welded)
    with run.step("bodies"):
        raw, colors = _bodies(raw, colors, options, run)
    surface = raw
    if options.smooth:
        with run.step("smooth"):
            surface = smooth.taubin(plain(raw[0]), plain(raw[1]), options.smooth), plain(raw[1])
    with run.step("thin"):
        fine = _thinned(surface, _detail(options.budget), run, device)
    lost = None
    if options.remove_inner:
        fine, lost = _without_inner(fine, options, run, device)
    with run.step("holes"):
        fine = _filled(fine, options, run)
    with run.step("decimate"):
        final = _thinned(fine, options.budget, run, device, said=True)
    with run.step("colors"):
        values = None if colors is None else attributes.carry(colors, raw, final, device)
    with run.step("error"):
        run.report["error"] = _error(final, raw, lost, options.samples, device)
    with run.step("lods"):
        more, box = _lods(fine, raw, colors, unit, options, run, device), _hull(final, unit, options, run)
    _summary(final, unit, run)
    run.job.step(STAGE, len(STEPS), len(STEPS))
    return Cleaned(_mesh(final, values, unit), {**run.report, "seconds": run.seconds, "notes": run.notes}, more, box)


_Surface = tuple[Array, Array]
_Raw = Union[_Surface, tuple[Tensor, Tensor]]  # on a GPU the raw mesh stays there


def _entered(mesh: RawMesh | Mesh) -> tuple[_Surface, Array | None]:
    """vertices, faces int64 and values float32 of either kind of mesh; InputError if they are no mesh."""
    faces = np.asarray(mesh.faces).astype(np.int64)
    values = mesh.colors if isinstance(mesh, RawMesh) else None
    if isinstance(mesh, Mesh) and mesh.vertex_colors is not None:
        values = mesh.vertex_colors.astype(np.float32) / 255
    if len(faces) == 0:
        raise InputError("The mesh to clean up has no faces.", "Leave the clean-up out for this object.")
    if faces.min() < 0 or faces.max() >= len(mesh.vertices):
        raise InputError("A mesh's faces point beyond its vertices.", "Renumber the faces.")
    return (mesh.vertices, faces), None if values is None else np.nan_to_num(values)


def _welded(raw: _Surface, colors: Array | None, run: _Run, device: torch.device | str) -> tuple[_Raw, Array | None]:
    """Equal positions made one, unfit faces dropped, winding made alike, loose vertices gone."""
    if not _resident(device):
        return _mended(raw, colors, run)
    there = placed(raw[0], device), placed(raw[1], device)
    if tensors.sound(*there):
        run.report["dropped"] = {"unfinite": 0, "degenerate": 0, "duplicate": 0}
        return there, colors
    (vertices, faces), colors = _mended(raw, colors, run)
    return (placed(vertices, device), placed(faces, device)), colors


def _mended(raw: _Surface, colors: Array | None, run: _Run) -> tuple[_Surface, Array | None]:
    vertices, faces = raw
    kept, place = topology.weld(vertices)
    if len(kept) < len(vertices):
        vertices, faces, colors = vertices[kept], place[faces], None if colors is None else colors[kept]
    faces, dropped = repair.fit_faces(vertices, faces)
    run.report["dropped"] = {"unfinite": dropped.unfinite, "degenerate": dropped.degenerate, "duplicate": dropped.duplicate}
    if len(faces) == 0:
        raise InputError("None of the mesh's faces has three different, finite corners.", "Leave this object out.")
    if not topology.balanced(faces):
        faces, turned = repair.wind_alike(faces)
        if turned:
            run.notes.append(f"{turned} faces were wound against their neighbours and were turned")
    vertices, faces, kept = topology.compact(vertices, faces)
    return (vertices, faces), None if colors is None else colors[kept]


def _box(vertices: Array | Tensor) -> tuple[Array, float]:
    ends = (vertices.amin(dim=0), vertices.amax(dim=0)) if isinstance(vertices, Tensor) else (vertices.min(axis=0), vertices.max(axis=0))
    low, high = (plain(end).astype(np.float64) for end in ends)
    return (low + high) / 2, max(float((high - low).max()), 1e-30)


def _bodies(raw: _Raw, colors: Array | None, options: CleanOptions, run: _Run) -> tuple[_Raw, Array | None]:
    """Without floaters and, where the inside isn't wanted, without bodies inside others; the rest faces outwards."""
    vertices, faces = raw
    parts = components.parts_of(vertices, faces)
    away = components.floaters(parts, options.smallest_body)
    depth = components.depths(vertices, faces, parts, ~away)
    inner = (depth > 0) & ~away & options.remove_inner
    run.report |= {"bodies_before": len(parts), "floaters": int(away.sum()), "inner_bodies": int(inner.sum())}
    outwards, turned = repair.face_outwards(faces, parts, depth % 2 == 1)
    run.report["turned_bodies"] = int((turned & ~away & ~inner).sum())
    stays = ~(away | inner)[parts.label]
    if stays.all():
        return (vertices, outwards), colors
    compact = tensors.compact if isinstance(vertices, Tensor) else topology.compact
    vertices, faces, kept = compact(vertices, tensors.rows(outwards, stays))
    return (vertices, faces), None if colors is None else colors[plain(kept)]


def _detail(budget: int | None) -> int | None:
    """Faces of the mesh that is looked at: a few times the budget, so that what is cut away isn't missing in the end."""
    return None if budget is None else max(budget, min(max(3 * budget, DETAIL[0]), DETAIL[1]))


def _thinned(surface: _Raw, budget: int | None, run: _Run, device: torch.device | str, said: bool = False) -> _Surface:
    """At most `budget` faces, as a manifold."""
    if budget is None or len(surface[1]) <= budget:
        vertices, faces, _, split = repair.split_crowded(plain(surface[0]), plain(surface[1]))
        made = decimate.Decimated(vertices, faces, split, 0, True)
    else:
        made = decimate.decimate(*surface, budget, device)
    run.report["split_vertices"] = run.report.get("split_vertices", 0) + made.split
    if said:
        run.report["budget_reached"] = made.reached
        if not made.reached:
            run.notes.append(f"decimation came down to {len(made.faces)} faces, not to {budget}")
        bodies, left = (len(components.parts_of(*some)) for some in (surface, (made.vertices, made.faces)))
        if left < bodies:
            run.notes.append(f"decimation lost {bodies - left} of {bodies} bodies: the budget has too few faces for so many")
    return made.vertices, made.faces


def _without_inner(surface: _Surface, options: CleanOptions, run: _Run, device: torch.device | str) -> tuple[_Surface, Any]:
    """-> what is left, and a function that says of points of the raw surface whether they lie on what was cut off."""
    vertices, faces = surface
    cuda = torch.device(device).type == "cuda"
    with run.step("visibility"):
        size = options.view_size or max(fitting_size(vertices, faces), 1024 if cuda else 256)
        seen = visibility(vertices, faces, options.views or (1000 if cuda else 100), size, device)
    with run.step("cut"):
        removed = mincut.cut_inner(vertices, faces, seen, options.max_hole_area).removed
        shown = seen * np.linalg.norm(topology.area_vectors(vertices, faces), axis=1)
        if shown[removed].sum() > MOST_SHOWN * shown.sum() or removed.all():
            run.notes.append("the cut would have taken what is seen from outside, so nothing was cut off")
            removed[:] = False
        run.report["inner_faces"] = int(removed.sum())
        if not removed.any():
            return surface, None
        left, fewer, _ = topology.compact(vertices, faces[~removed])
        left, fewer, _, split = repair.split_crowded(left, fewer)
        run.report["split_vertices"] += split
        tree = cKDTree(vertices[faces].mean(axis=1))
    return (left, fewer), lambda points: removed[tree.query(points, workers=-1)[1]]


def _filled(surface: _Surface, options: CleanOptions, run: _Run) -> _Surface:
    """Holes closed, what they kept from facing outwards turned; what the cut left of bodies as crumbs taken away."""
    made = holes.fill_holes(*surface, options.max_hole_edges)
    vertices, faces = made.vertices, made.faces
    parts = components.parts_of(vertices, faces)
    crumbs = components.floaters(parts, options.smallest_body)
    if made.closed:  # only a body that is closed can be said to face inwards
        faces, turned = repair.face_outwards(faces, parts, components.depths(vertices, faces, parts, ~crumbs) % 2 == 1)
        run.report["turned_bodies"] += int((turned & ~crumbs).sum())
    if crumbs.any():
        run.report["floaters"] += int(crumbs.sum())
        vertices, faces, _ = topology.compact(vertices, faces[~crumbs[parts.label]])
    open_ = [len(loop) for loop in topology.boundary_loops(faces)] if made.left else []
    run.report |= {"holes_closed": list(made.closed), "holes_left": open_}
    if open_:
        run.notes.append(f"{len(open_)} holes have more than {options.max_hole_edges} edges and stay open")
    return vertices, faces


def _error(final: _Surface, raw: _Raw, lost: Any, samples: int, device: torch.device | str) -> dict[str, float] | None:
    """Against the raw surface, without what was cut off."""
    if samples == 0:
        return None
    points, _ = nearest.sample_surface(*raw, samples)
    if lost is not None:
        points = points[~lost(points)]
    return error.surface_error(final, raw, samples, points=points, device=device).to_json() if len(points) else None


def _lods(
    fine: _Surface, raw: _Raw, colors: Array | None, unit: _Unit, options: CleanOptions, run: _Run, device: torch.device | str
) -> tuple[Mesh, ...]:
    made = []
    for level in lods.levels(*fine, options.lods):
        surface = level.vertices, level.faces
        made.append(_mesh(surface, None if colors is None else attributes.carry(colors, raw, surface, device), unit))
        if not level.reached:
            run.notes.append(f"the level of {level.budget} faces has {len(level.faces)}")
    if options.lods:
        run.report["lods"] = [len(mesh.faces) for mesh in made]
    return tuple(made)


def _hull(final: _Surface, unit: _Unit, options: CleanOptions, run: _Run) -> Mesh | None:
    if options.hull_vertices is None:
        return None
    vertices, faces = hull.collision_hull(final[0], options.hull_vertices)
    run.report["hull"] = {"vertices": len(vertices), "faces": len(faces)}
    return _mesh((vertices, faces), None, unit)


def _mesh(surface: _Surface, values: Array | None, unit: _Unit) -> Mesh:
    vertices, faces = surface
    return Mesh(unit.leave(vertices), faces.astype(np.uint32), vertex_colors=None if values is None else _bytes(values))


def _bytes(values: Array) -> Array:
    """float (V, C) in 0..1 -> uint8 (V, 4); opaque where there are three."""
    out = np.full((len(values), 4), 255, np.uint8)
    out[:, : values.shape[1]] = np.rint(255 * np.clip(values, 0, 1))
    return out


def _summary(final: _Surface, unit: _Unit, run: _Run) -> None:
    vertices, faces = final
    if len(faces) == 0:
        raise EngineError("The clean-up left nothing of the mesh.", "Give a larger face budget, or leave the clean-up out.")
    found = topology.soundness(vertices.astype(np.float32), faces)
    volume = float(topology.signed_volumes(vertices, faces)[0]) * unit.size**3
    run.report |= {
        "faces_after": len(faces), "bodies_after": found.bodies, "closed": found.closed, "boundary_edges": found.boundary, "euler": found.euler,
        "genus": found.genus, "volume": volume,
    }  # fmt: skip
    if found.boundary and not run.report["holes_left"]:
        run.notes.append(f"{found.boundary} edges have one face and run around no hole, so they stay open")
    if found.crowded or found.clashing:
        run.notes.append(f"{found.crowded} edges have more than two faces, {found.clashing} have faces of unlike winding")
