"""Masks, sprites and judges for the draft engine's tests. The judges know nothing of how a mesh was made: they see triangles and a camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from comfyui_sam3d.contract import Camera, DraftOptions, Mesh, ReconstructRequest, Scene, SceneObject
from comfyui_sam3d.contract.automask import border_mask
from comfyui_sam3d.worker.engines.draft import reconstruct
from comfyui_sam3d.worker.job import QuietJob
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def shape(name: str, side: int = 256) -> np.ndarray:
    """bool (side, side): the masks that the spec's section 3 names."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    if name == "disc":
        return r < 0.4
    if name == "ring":
        return (r < 0.45) & (r > 0.25)
    if name == "star":
        return r < 0.16 + 0.28 * (np.abs((angle * 9 / np.pi + 1) % 2 - 1)) ** 1.5
    if name == "cross":
        return ((np.abs(x) < 2 / side) | (np.abs(y - x / 4) < 2.5 / side)) & (r < 0.45)
    if name == "ladder":
        rails = (np.abs(np.abs(x) - 0.2) < 0.035) & (np.abs(y) < 0.45)
        rungs = (np.abs((y * 5) % 1 - 0.5) < 0.12) & (np.abs(x) < 0.2) & (np.abs(y) < 0.42)
        return rails | rungs
    if name == "blobs":
        noise = ndimage.gaussian_filter(np.random.default_rng(7).standard_normal((side, side)), side / 28)
        return (noise > 0.5 * noise.std()) & (r < 0.49)
    if name == "checkerboard":
        return ((np.floor(x * 9 + 20) + np.floor(y * 9 + 20)) % 2 == 0) & (np.abs(x) < 0.44) & (np.abs(y) < 0.44)
    if name == "sword":
        return ((np.abs(x) < 0.016) & (np.abs(y) < 0.47)) | ((np.abs(x) < 0.09) & (np.abs(y - 0.25) < 0.015))
    raise KeyError(name)


SHAPES = ("disc", "ring", "star", "cross", "ladder", "blobs", "checkerboard", "sword")


def picture(mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): a smooth colour pattern, periods of about 50 px."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(float)
    waves = [np.sin(x / 8 + 1), np.sin(y / 8 + 2), np.sin((x + y) / 11)]
    return np.stack([np.round(128 + 80 * w) for w in waves], -1).astype(np.uint8)


def request(mask: np.ndarray, image: np.ndarray | None = None, *, alpha: np.ndarray | None = None, **options: object) -> ReconstructRequest:
    """One or several masks; options of the draft and of the request, told apart by their names."""
    masks = mask if mask.ndim == 3 else mask[None]
    own = {k: options.pop(k) for k in list(options) if k in DraftOptions.__dataclass_fields__}
    return ReconstructRequest(
        picture(masks[0]) if image is None else image, masks, alpha=alpha, draft=DraftOptions(**own), outputs=(), **options
    )


def solve(mask: np.ndarray, image: np.ndarray | None = None, **options: object) -> Scene:
    return reconstruct(request(mask, image, **options), QuietJob())


def examples() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """name -> (image, mask, alpha or None) of every example picture with one object."""
    found = {}
    for path in sorted(EXAMPLES.glob("*.png")):
        if path.stem.endswith("_mask"):
            continue
        opened = Image.open(path)
        rgba = np.asarray(opened.convert("RGBA"))
        beside = path.with_name(f"{path.stem}_mask.png")
        if beside.exists():
            alpha = np.asarray(Image.open(beside).convert("L"))
        elif opened.mode == "RGB":
            found[path.stem] = (rgba[..., :3].copy(), border_mask(rgba[..., :3].copy()), None)
            continue
        else:
            alpha = rgba[..., 3].copy()
        found[path.stem] = (rgba[..., :3].copy(), alpha >= 128, alpha)
    return found


def welded(mesh: Mesh) -> trimesh.Trimesh:
    """The mesh with vertices at equal positions made one, as an importer sees it."""
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False, validate=False)
    body.merge_vertices(merge_tex=True, merge_norm=True, digits_vertex=7)
    return body


def assert_closed(mesh: Mesh) -> trimesh.Trimesh:
    """Gate 1: every edge has two faces, orientation is consistent, volume is positive, no face is empty, each vertex has one fan."""
    body = welded(mesh)
    assert len(body.faces) == len(mesh.faces)
    assert body.is_watertight and body.is_winding_consistent
    assert (edge_counts(np.asarray(body.faces))[1] == 2).all()
    assert body.volume > 0
    labels = trimesh.graph.connected_component_labels(body.face_adjacency, len(body.faces))
    corners = body.triangles - body.vertices.mean(0)
    volumes = np.bincount(labels, np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])))
    assert (volumes > 0).all(), "each body"
    assert body.area_faces.min() > 0
    assert fans(body.faces) == len(np.unique(body.faces))
    return body


def edge_counts(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Undirected edges (E, 2), and how many faces have each."""
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64), 1)
    keys, counts = np.unique(edges[:, 0] << 32 | edges[:, 1], return_counts=True)
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], 1), counts


def fans(faces: np.ndarray) -> int:
    """How many fans of faces there are around vertices, counted over all vertices: one each on a manifold."""
    total = faces.max() + 1
    corner = np.arange(faces.size).reshape(faces.shape)
    ahead = np.roll(faces, -1, 1)
    forward, backward = (faces * total + ahead).ravel(), (ahead * total + faces).ravel()
    one, other = np.argsort(forward), np.argsort(backward)
    assert np.array_equal(forward[one], backward[other])  # each edge meets its reverse
    next_corner = np.roll(corner, -1, 1).ravel()
    corner = corner.ravel()
    # Along an edge, the corners of both faces at the same end belong to one fan.
    pairs = np.concatenate([np.stack([corner[one], next_corner[other]], 1), np.stack([next_corner[one], corner[other]], 1)])
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(faces.size, faces.size))
    return int(connected_components(graph, directed=False)[0])


def project(scene: Scene, item: SceneObject, points: np.ndarray) -> np.ndarray:
    """Object points (N, 3) -> pixels (N, 2) of the recorded orthographic camera, y down."""
    camera = scene.camera
    assert isinstance(camera, Camera) and camera.kind == "orthographic"
    seen = item.pose.apply(points.astype(np.float64)) - np.array(camera.pose.translation)
    assert camera.pose.rotation == (1.0, 0.0, 0.0, 0.0)
    x = (seen[:, 0] / camera.xmag + 1) / 2 * camera.width
    y = (1 - seen[:, 1] / camera.ymag) / 2 * camera.height
    return np.stack([x, y], 1)


def silhouette(scene: Scene, item: SceneObject, samples: int = 4) -> np.ndarray:
    """bool (samples*H, samples*W): what the recorded camera sees of the object. Even-odd filling of the outline of all faces towards it."""
    body = welded(item.mesh)
    pixels = project(scene, item, np.asarray(body.vertices)) * samples
    corners = pixels[body.faces]
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    towards = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0] < -1e-6
    faces = np.asarray(body.faces)[towards]
    kept, counts = edge_counts(faces)
    outline = pixels[kept[counts == 1]]
    height, width = scene.camera.height * samples, scene.camera.width * samples
    low, high = np.sort(outline[:, :, 1], 1).T
    first, last = np.ceil(low - 0.5).astype(int), np.ceil(high - 0.5).astype(int)  # rows whose middle the edge crosses
    segment = np.repeat(np.arange(len(outline)), last - first)
    row = np.arange(len(segment)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[segment]
    (x0, y0), (x1, y1) = outline[segment, 0].T, outline[segment, 1].T
    x = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
    toggles = np.zeros((height, width + 1), int)
    inside = (row >= 0) & (row < height)
    np.add.at(toggles, (row[inside], np.clip(np.ceil(x[inside] - 0.5).astype(int), 0, width)), 1)
    return np.cumsum(toggles, 1)[:, :width] % 2 == 1


def enlarged(mask: np.ndarray, alpha: np.ndarray | None, samples: int = 4) -> np.ndarray:
    """The mask at the silhouette's resolution: its alpha interpolated where it has soft edges."""
    if alpha is None or ((alpha == 0) | (alpha == 255)).all():
        return mask.repeat(samples, 0).repeat(samples, 1)
    size = (mask.shape[1] * samples, mask.shape[0] * samples)
    return np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.BILINEAR)) >= 128


def iou(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    if where is not None:
        a, b = a & where, b & where
    return float((a & b).sum() / (a | b).sum())


def not_thin(mask: np.ndarray, width: float, samples: int = 4) -> np.ndarray:
    """Where silhouettes are compared although thin parts were thickened: away from what an opening of this radius (pixels) removes."""
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    core = inside > width
    opened = mask & (ndimage.distance_transform_edt(~core) <= width) if core.any() else np.zeros_like(mask)
    thin = mask & ~opened
    far = ndimage.distance_transform_edt(~thin) > 3 * width if thin.any() else np.ones_like(mask)
    return far.repeat(samples, 0).repeat(samples, 1)


def front_colours(scene: Scene, item: SceneObject, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float (N, 3), 0..255: what the front shows at the middles of these pixels. The front's UVs are an affine map of the picture."""
    mesh = item.mesh
    pixels = project(scene, item, mesh.vertices)
    corners = pixels[mesh.faces]
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    towards = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0] < -1e-6
    used = np.unique(mesh.faces[towards])
    basis = np.column_stack([pixels[used], np.ones(len(used))])
    affine, *_ = np.linalg.lstsq(basis, mesh.uvs[used].astype(float), rcond=None)
    assert np.abs(basis @ affine - mesh.uvs[used]).max() < 1e-4
    uv = np.column_stack([columns + 0.5, rows + 0.5, np.ones(len(rows))]) @ affine
    height, width = mesh.texture.shape[:2]
    at = [uv[:, 1] * height - 0.5, uv[:, 0] * width - 0.5]
    return np.stack([ndimage.map_coordinates(mesh.texture[..., i].astype(float), at, order=1, mode="nearest") for i in range(3)], 1)


def figure_picture(side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """(image, mask): a flat disc with a dark outline of 5 px, for the outline detection."""
    drawn = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(drawn)
    pen.ellipse((20, 20, side - 20, side - 20), fill=(220, 120, 60, 255), outline=(20, 10, 5, 255), width=5)
    rgba = np.asarray(drawn)
    return rgba[..., :3].copy(), rgba[..., 3] >= 128
