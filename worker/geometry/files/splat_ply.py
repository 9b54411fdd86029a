"""Gaussian splats as PLY: binary, float32, the 17 properties of 3D Gaussian Splatting (68 bytes a splat at degree 0).

    x y z nx ny nz f_dc_0..2 [f_rest_0..] opacity scale_0..2 rot_0..3

nx..nz are 0; opacity is a logit, scales are natural logs, rot is a unit quaternion, w first. f_rest stands there only for splats with K > 1
coefficients, channel by channel, as the format has it. Sources: spec/postprocess.md section 6; golden `gaussian_ply_release` has the
header.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np

from ....contract.errors import InputError
from ....contract.scene import Splats
from ..surfaces import sound

_BLOCK = 1 << 13  # rows that stay in a processor's cache while they are worked out
_LEAST_OPACITY = 1e-6
_LEAST_SCALE = 1e-12  # metres; a flat splat is fine, the log of 0 isn't


def _properties(rest: int) -> list[str]:
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def splat_ply(splats: Splats) -> bytes:
    """The file, for splats already in the file's frame. Rows that aren't finite are dropped; OutputError if none is left."""
    splats = sound(splats)
    count, rest = len(splats.positions), 3 * (splats.sh.shape[1] - 1)
    rows = np.zeros((min(count, _BLOCK), 17 + rest), "<f4")
    file = _begin(count, rest)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        filled = rows[: count - start]
        _fill(filled, splats.positions[block], splats.scales[block], splats.rotations[block], splats.opacities[block], splats.sh[block])
        file.write(filled)
    return file.getvalue()


def _fill(
    rows: np.ndarray, positions: np.ndarray, scales: np.ndarray, rotations: np.ndarray, opacities: np.ndarray, sh: np.ndarray
) -> None:
    """Sound activated values -> rows (N, 17 + rest), whose normals are 0 already."""
    rest = rows.shape[1] - 17
    tail = rows[:, 9 + rest :]
    rows[:, 0:3] = positions
    rows[:, 6:9] = sh[:, 0]
    if rest:
        rows[:, 9 : 9 + rest] = sh[:, 1:].transpose(0, 2, 1).reshape(len(sh), rest)
    opacity = np.clip(opacities, _LEAST_OPACITY, 1 - _LEAST_OPACITY, dtype=np.float64)
    tail[:, 0] = np.log(opacity / (1 - opacity))
    tail[:, 1:4] = np.log(np.maximum(scales, _LEAST_SCALE))
    turns = rotations.astype(np.float64)
    w, x, y, z = np.square(turns).T
    tail[:, 4:8] = turns / np.sqrt(w + x + y + z)[:, None]


def ply_of_rows(rows: np.ndarray) -> bytes:
    """float32 (N, 17 or more), the columns as they stand in the file -> the file, whatever the values are."""
    file = _begin(len(rows), rows.shape[1] - 17)
    for start in range(0, len(rows), _BLOCK):
        file.write(np.ascontiguousarray(rows[start : start + _BLOCK], "<f4"))
    return file.getvalue()


def _begin(count: int, rest: int) -> BytesIO:
    """A file that holds its header. Blocks are written behind it: no array of the whole file beside its bytes."""
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    file = BytesIO()
    file.write("\n".join([*header, *(f"property float {name}" for name in _properties(rest)), "end_header", ""]).encode())
    return file


def read_splat_ply(data: bytes) -> Splats:
    """A splat PLY (binary little endian, float properties in any order) -> activated splats, in the file's own frame.

    Extra float properties are skipped. Raises InputError for anything else.
    """
    end = data.find(b"end_header\n")
    lines = data[: max(end, 0)].decode("ascii", "replace").split("\n")
    if end < 0 or lines[:2] != ["ply", "format binary_little_endian 1.0"]:
        raise InputError("This is no binary little-endian PLY.", "Export the splats as binary PLY.")
    words = [line.split() for line in lines[2:] if line and not line.startswith("comment")]
    elements = [word for word in words if word[0] == "element"]
    fields = [word[2] for word in words if word[:2] == ["property", "float"] and len(word) == 3]
    simple = len(elements) == 1 and elements[0][:2] == ["element", "vertex"] and len(elements[0]) == 3 and elements[0][2].isdigit()
    if not simple or len(fields) != len(words) - 1 or len(set(fields)) != len(fields):
        raise InputError("This PLY holds more than one list of float properties.", "Export Gaussian splats, not a mesh or a point cloud.")
    rest = sum(name.startswith("f_rest_") for name in fields)
    missing = set(_properties(rest)) - set(fields) - {"nx", "ny", "nz"}
    if missing or rest not in (0, 9, 24, 45):
        raise InputError(f"This PLY lacks {', '.join(sorted(missing)) or 'some f_rest'}.", "Export Gaussian splats, not a point cloud.")
    count, start = int(elements[0][2]), end + len(b"end_header\n")
    if len(data) - start < 4 * count * len(fields):
        raise InputError(f"This PLY ends before its {count} splats do.", "Copy the file again.")
    rows = np.frombuffer(data, "<f4", count * len(fields), start).reshape(count, len(fields))
    column = {name: rows[:, i] for i, name in enumerate(fields)}

    def pick(*names: str) -> np.ndarray:
        return np.stack([column[name] for name in names], axis=1)

    rotations = pick("rot_0", "rot_1", "rot_2", "rot_3")
    length = np.linalg.norm(rotations, axis=1, keepdims=True)
    identity = np.array([1, 0, 0, 0], np.float32)
    sh = pick("f_dc_0", "f_dc_1", "f_dc_2")[:, None, :]
    if rest:
        more = pick(*(f"f_rest_{i}" for i in range(rest))).reshape(count, 3, rest // 3).transpose(0, 2, 1)
        sh = np.concatenate([sh, more], axis=1)
    with np.errstate(over="ignore"):
        return Splats(
            positions=pick("x", "y", "z"),
            scales=np.exp(pick("scale_0", "scale_1", "scale_2")),
            rotations=np.where(length > 0, rotations / np.where(length > 0, length, 1), identity).astype(np.float32),
            opacities=(1 / (1 + np.exp(-column["opacity"].astype(np.float64)))).astype(np.float32),
            sh=np.ascontiguousarray(sh),
        )
