"""Gaussian splats as PLY: binary, float32, the 17 properties of 3D Gaussian Splatting (68 bytes a splat at degree 0).

    x y z nx ny nz f_dc_0..2 [f_rest_0..] opacity scale_0..2 rot_0..3

nx..nz are 0; opacity is a logit, scales are natural logs, rot is a unit quaternion, w first. f_rest stands there only for splats with K > 1
coefficients, channel by channel, as the format has it. Sources: spec/postprocess.md section 6; golden `gaussian_ply_release` has the
header.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO

import numpy as np

from ....contract.errors import InputError, OutputError
from ....contract.scene import Splats
from ..frames import Motion

_BLOCK = 1 << 13  # rows that stay in a processor's cache while they are worked out
_AT_ONCE = 8  # blocks in a row: a few milliseconds, between which a job may be cancelled
_ALIGNED = 64  # bytes
_LONGEST_HEADER = 1 << 20  # bytes that are looked through for its end
_LEAST_OPACITY = 1e-6
_LEAST_SCALE = 1e-12  # metres; a flat splat is fine, the log of 0 isn't


def _properties(rest: int) -> list[str]:
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


class SplatPly:
    """A splat PLY in the making: call all `blocks`, each once, in any order and in any thread; then take the `file`.

    Its rows stand in memory once, where they will be read from; beside them each thread needs a few megabytes.
    """

    def __init__(self, parts: Sequence[tuple[Splats, Sequence[Motion]]], degree: int = 0) -> None:
        """parts: splats, and what moves them into the file's frame, one after another. degree: of the f_rest columns at least; those that are lacking are 0."""
        self._parts, self._kept = parts, dict[int, int]()  # where a block of rows begins -> how many of them are sound
        self._rest = 3 * (max((degree + 1) ** 2, *(splats.sh.shape[1] for splats, _ in parts)) - 1)
        count, width = sum(len(splats.positions) for splats, _ in parts), 17 + self._rest
        self._start = -(-len(_header(count, self._rest)) // _ALIGNED) * _ALIGNED  # of the rows: aligned, the header before them
        # Not bytes: where there are huge pages, numpy asks for them, and the system hands over memory in a quarter of the time.
        self._memory = np.empty(self._start + 4 * width * count, np.uint8)
        self._rows = self._memory[self._start :].view("<f4").reshape(count, width)

    def blocks(self) -> list[Callable[[], None]]:
        calls: list[Callable[[], None]] = []
        begin = 0
        for splats, motions in self._parts:
            count, step = len(splats.positions), _AT_ONCE * _BLOCK
            calls += [partial(self._fill, splats, motions, start, min(start + step, count), begin) for start in range(0, count, step)]
            begin += count
        return calls

    def file(self) -> memoryview:
        """Without the rows that aren't finite or have no rotation. OutputError if none is left."""
        count = 0
        for begin, kept in sorted(self._kept.items()):
            if begin > count:
                self._rows[count : count + kept] = self._rows[begin : begin + kept]
            count += kept
        self._kept = {0: count}  # for who asks again
        if count == 0:
            raise OutputError("None of the splats is finite.", "The engine made broken splats: please report it.")
        header = _header(count, self._rest)  # never longer than the one that there is room for
        start = self._start - len(header)
        self._memory[start : self._start] = np.frombuffer(header, np.uint8)
        return self._memory[start : self._start + self._rows[:count].nbytes].data.toreadonly()

    def _fill(self, splats: Splats, motions: Sequence[Motion], start: int, stop: int, begin: int) -> None:
        """The rows of some splats, whose part begins at the file's row `begin`."""
        # Columns that aren't a power of 2 apart: else their values, taken row by row, push each other out of the cache.
        columns = np.zeros((17 + self._rest, _BLOCK + 16), "<f4")
        for at in range(start, stop, _BLOCK):
            block = slice(at, min(at + _BLOCK, stop))
            filled = columns[:, : block.stop - at]
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                sound = _columns(filled, splats, block, motions)
            kept = filled if sound is None else filled[:, sound]
            self._rows[begin + at : begin + at + kept.shape[1]] = kept.T
            self._kept[begin + at] = kept.shape[1]


def splat_ply(splats: Splats) -> memoryview:
    """The file, for splats already in the file's frame. Rows that aren't finite are dropped; OutputError if none is left."""
    made = SplatPly([(splats, ())])
    for fill in made.blocks():
        fill()
    return made.file()


def _columns(columns: np.ndarray, splats: Splats, block: slice, motions: Sequence[Motion]) -> np.ndarray | None:
    """Some activated splats, moved, as the file's columns (17 or more, N), all 0 before. -> which of them are sound (N,), or None: all are."""
    positions, rotations, scales, sh = splats.positions[block].T, splats.rotations[block].T, splats.scales[block], splats.sh[block]
    for motion in motions:
        positions, rotations = motion.positions(positions.T), motion.rotations(rotations.T)
        scales, sh = motion.scales(scales), motion.sh(sh)
    tail = columns[-8:]
    columns[0:3] = positions
    columns[6:9] = sh[:, 0].T
    if sh.shape[1] > 1:  # a channel's coefficients stand together
        columns[9:-8].reshape(3, -1, columns.shape[1])[:, : sh.shape[1] - 1] = sh[:, 1:].transpose(2, 1, 0)
    opacities = splats.opacities[block]
    opacity = np.clip(opacities, _LEAST_OPACITY, 1 - _LEAST_OPACITY, dtype=np.float64)
    tail[0] = np.log(opacity / (1 - opacity))
    tail[1:4] = np.log(np.maximum(scales, _LEAST_SCALE)).T
    turns = np.ascontiguousarray(rotations, np.float64)
    w, x, y, z = np.square(turns)
    tail[4:8] = turns / np.sqrt(w + x + y + z)
    # A rotation of length 0 became NaN above; clipping hides what an opacity or a scale was.
    if np.isfinite(columns).all() and np.isfinite(opacities).all() and np.isfinite(scales).all():
        return None  # as nearly always
    every = np.concatenate([columns, opacities[None], scales.T])
    good: np.ndarray = np.isfinite(every).all(axis=0)
    return good


def ply_of_rows(rows: np.ndarray) -> bytes:
    """float32 (N, 17 or more), the columns as they stand in the file -> the file, whatever the values are."""
    file = BytesIO()
    file.write(_header(len(rows), rows.shape[1] - 17))
    for start in range(0, len(rows), _BLOCK):  # no array of the whole file beside its bytes
        file.write(np.ascontiguousarray(rows[start : start + _BLOCK], "<f4"))
    return file.getvalue()


def _header(count: int, rest: int) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}", *(f"property float {name}" for name in _properties(rest))]
    return "\n".join([*lines, "end_header", ""]).encode()


def read_splat_ply(data: bytes | memoryview) -> Splats:
    """A splat PLY (binary little endian, float properties in any order) -> activated splats, in the file's own frame.

    Extra float properties are skipped. Raises InputError for anything else.
    """
    head = bytes(data[:_LONGEST_HEADER])
    end = head.find(b"end_header\n")
    lines = head[: max(end, 0)].decode("ascii", "replace").split("\n")
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
