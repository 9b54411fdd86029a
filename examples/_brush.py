"""A small vector brush for the example pictures: signed-distance shapes, shading, noise, and a clean alpha at the end.

Coordinates are pixels of the finished picture (x right, y down); the canvas works at `SCALE` times that and is box-filtered at the end. Colours are
sRGB hex strings or arrays 0..1. All maths is float64 and all randomness is seeded, so a picture comes out the same every time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]
Colour = str | Sequence[float] | Array
Points = str | Sequence[tuple[float, float]] | Array  # text: "x,y x,y ..."

SCALE = 2  # working pixels per finished pixel, on top of analytic antialiasing
LIGHT = np.array([-0.46, -0.58, 0.67]) / np.linalg.norm([-0.46, -0.58, 0.67])  # towards the light: upper left, towards the viewer


def rgb(colour: Colour) -> Array:
    """`'#rrggbb'` or three numbers 0..1 -> float64 (3,); arrays (H, W, 3) pass through."""
    if isinstance(colour, str):
        return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.asarray(colour, dtype=np.float64)


def mix(a: Colour, b: Colour, t: float | Array) -> Array:
    """Colour from a (t = 0) to b (t = 1); an array t (H, W) gives (H, W, 3)."""
    t = np.asarray(t, dtype=np.float64)
    return rgb(a) + (rgb(b) - rgb(a)) * (t[..., None] if t.ndim else t)


def smoothstep(low: float, high: float, x: Array) -> Array:
    """0 at `low`, 1 at `high`, flat at both ends; `low` may be the larger one."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def pts(points: Points) -> Array:
    """(N, 2) float64, from pairs or from text as in an SVG polygon: `"10,20 30,40"`."""
    if isinstance(points, str):
        return np.array([pair.split(",") for pair in points.split()], dtype=np.float64)
    return np.asarray(points, dtype=np.float64)


def nearest(x: Array) -> Array:
    """Nearest whole number, with the tie moved off the middle: flat colours lie exactly there, and processors differ in the last bit."""
    return np.floor(x + 0.5013)


def spline(points: Points, closed: bool = True, steps: int = 14) -> Array:
    """Catmull-Rom curve through `points`; a point given twice in a row is a corner. Returns (N, 2)."""
    p = pts(points)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:]):
        if (b == c).all():
            continue  # between the two of a corner the formula would make a small loop
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.vstack(parts if closed else [*parts, p[-2:-1]])


def _coverage(points: Array, height: int, width: int, rows: int = 4) -> Array:
    """Share of each pixel inside a polygon (nonzero winding): exact along x, `rows` sample lines per pixel along y."""
    wind = np.zeros((height * rows, width + 2))
    for (xa, ya), (xb, yb) in zip(points, np.roll(points, -1, axis=0)):
        first, last = (int(np.ceil(min(max(v, 0), height) * rows - 0.5)) for v in (min(ya, yb), max(ya, yb)))
        line = np.arange(first, min(last, height * rows))
        if not len(line):
            continue
        x = np.clip(xa + ((line + 0.5) / rows - ya) * (xb - xa) / (yb - ya), 0, width)
        cell = np.floor(x).astype(int)
        sign = 1.0 if yb > ya else -1.0
        wind[line, cell] += sign * (1 - (x - cell))
        wind[line, cell + 1] += sign * (x - cell)
    inside = np.clip(np.abs(np.cumsum(wind, axis=1)[:, :width]), 0, 1)
    return inside.reshape(height, rows, width).mean(axis=1)


class Shape:
    """Signed distance `d` (finished pixels, negative inside) on a window of the canvas that begins at working pixel (top, left)."""

    def __init__(self, d: Array, top: int, left: int) -> None:
        self.d, self.top, self.left = d, top, left

    def like(self, d: Array) -> Shape:
        return Shape(d, self.top, self.left)

    def grow(self, r: float) -> Shape:
        return self.like(self.d - r)

    def ring(self, width: float) -> Shape:
        """The band of this width along the border, half inside and half outside."""
        return self.like(np.abs(self.d) - width / 2)

    def cover(self) -> Array:
        return np.clip(0.5 - self.d * SCALE, 0, 1)

    def area(self) -> tuple[slice, slice]:
        """The window, as an index into the canvas."""
        h, w = self.d.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)

    def xy(self) -> tuple[Array, Array]:
        """Pixel centres of the window in finished pixels: x (1, W), y (H, 1)."""
        h, w = self.d.shape
        return (np.arange(w) + self.left + 0.5)[None, :] / SCALE, (np.arange(h) + self.top + 0.5)[:, None] / SCALE

    def on(self, other: Shape, outside: float = 99.0) -> Array:
        """`other`'s distances on this window; `outside` where it knows none."""
        out = np.full(self.d.shape, outside)
        y0, x0 = max(self.top, other.top), max(self.left, other.left)
        y1 = min(self.top + self.d.shape[0], other.top + other.d.shape[0])
        x1 = min(self.left + self.d.shape[1], other.left + other.d.shape[1])
        if y1 > y0 and x1 > x0:
            theirs = other.d[y0 - other.top : y1 - other.top, x0 - other.left : x1 - other.left]
            out[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left] = theirs
        return out

    def __and__(self, other: Shape) -> Shape:
        return self.like(np.maximum(self.d, self.on(other)))

    def __sub__(self, other: Shape) -> Shape:
        return self.like(np.maximum(self.d, -self.on(other)))

    def __or__(self, other: Shape) -> Shape:
        top, left = min(self.top, other.top), min(self.left, other.left)
        bottom = max(self.top + self.d.shape[0], other.top + other.d.shape[0])
        right = max(self.left + self.d.shape[1], other.left + other.d.shape[1])
        whole = Shape(np.zeros((bottom - top, right - left)), top, left)
        return whole.like(np.minimum(whole.on(self), whole.on(other)))

    def light(self, bevel: float, soften: float = 0.18) -> Array:
        """Light of the shape seen as a pillow whose edge is `bevel` px wide: 0 where flat, up to about +0.4 lit and -1 in shade."""
        t = np.clip(-self.d / bevel, 0, 1)
        height = ndimage.gaussian_filter(bevel * np.sqrt(1 - (1 - t) ** 2), soften * bevel * SCALE)
        gy, gx = np.gradient(height, 1 / SCALE)
        n = 1 / np.sqrt(gx**2 + gy**2 + 1)
        return (-gx * LIGHT[0] - gy * LIGHT[1] + LIGHT[2]) * n - LIGHT[2]

    def noise(self, cell: float, seed: int, octaves: int = 1, stretch: float = 1.0) -> Array:
        """Smooth value noise in -1..1 with features of `cell` px (`stretch` times longer along x)."""
        x, y = self.xy()
        total, weight = np.zeros(self.d.shape), 0.0
        for k in range(octaves):
            rng = np.random.default_rng([seed, k])
            size_x, size_y = cell * stretch / 2**k, cell / 2**k
            grid = rng.random((int(1100 / size_y) + 3, int(1100 / size_x) + 3)) * 2 - 1
            u, v = x[0] / size_x, y[:, 0] / size_y
            i, j = np.floor(v).astype(int), np.floor(u).astype(int)
            fv, fu = smoothstep(0, 1, v - i)[:, None], smoothstep(0, 1, u - j)[None, :]
            top = grid[i][:, j] * (1 - fu) + grid[i][:, j + 1] * fu
            low = grid[i + 1][:, j] * (1 - fu) + grid[i + 1][:, j + 1] * fu
            total += (top * (1 - fv) + low * fv) / 2**k
            weight += 1 / 2**k
        return total / weight


class Canvas:
    """A transparent picture of `width` x `height` finished pixels: premultiplied colour and alpha, float64 0..1."""

    def __init__(self, width: int = 512, height: int = 512) -> None:
        self.width, self.height = width, height
        self.rgb: Array = np.zeros((height * SCALE, width * SCALE, 3))
        self.a: Array = np.zeros((height * SCALE, width * SCALE))

    def path(self, points: Points, margin: float = 14) -> Shape:
        """A filled polygon; its distances are known up to `margin` px outside."""
        p = np.round(pts(points) * SCALE, 4)  # processors differ in the last bit of sines and powers; the outline must not
        low, high = np.floor(p.min(0) - margin * SCALE).astype(int), np.ceil(p.max(0) + margin * SCALE).astype(int)
        left, top = np.maximum(low, 0)
        right, bottom = np.minimum(high, [self.width * SCALE, self.height * SCALE])
        cover = _coverage(p - [left, top], max(bottom - top, 1), max(right - left, 1))
        inside = cover >= 0.5
        if inside.any() and not inside.all():
            d = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
            d -= 0.5 * np.sign(d)
        else:
            d = np.full(inside.shape, -50.0 if inside.all() else 50.0)
        edge = (cover > 0.01) & (cover < 0.99)
        d[edge] = (0.5 - cover)[edge]
        return Shape(np.round(ndimage.gaussian_filter(d, 0.7) / SCALE, 6), int(top), int(left))

    def blob(self, points: Points, **how: float) -> Shape:
        return self.path(spline(points), **how)

    def ellipse(self, x: float, y: float, rx: float, ry: float, angle: float = 0, wobble: float = 0, seed: int = 0, **how: float) -> Shape:
        """Angle in degrees, clockwise on the screen; `wobble` is the relative unevenness of the radius."""
        t = np.linspace(0, 2 * np.pi, max(24, int(rx + ry)), endpoint=False)
        r = np.ones_like(t)
        rng = np.random.default_rng([seed, 77])
        for k in range(2, 6):
            r += wobble * (rng.random() * 2 - 1) * np.cos(k * t + rng.random() * 2 * np.pi) / (k - 1)
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        u, v = rx * r * np.cos(t), ry * r * np.sin(t)
        return self.path(np.stack([x + c * u - s * v, y + s * u + c * v], axis=1), **how)

    def stroke(self, points: Points, widths: float | Sequence[float], smooth: bool = True, flat: bool = False, **how: float) -> Shape:
        """A line through `points`, its width (px) going through `widths`; ends are round, the first one may be `flat`."""
        p = spline(points, closed=False) if smooth else pts(points)
        w = np.atleast_1d(np.asarray(widths, dtype=np.float64))
        s = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
        r = np.interp(s / s[-1], np.linspace(0, 1, len(w)), w) / 2 if len(w) > 1 else np.full(len(p), w[0] / 2)
        tangent = np.gradient(p, s, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
        arc = np.linspace(-np.pi / 2, np.pi / 2, 12)[1:-1, None]
        tail = p[-1] + r[-1] * (np.cos(arc) * tangent[-1] - np.sin(arc) * normal[-1])
        head = p[0] - r[0] * (np.cos(arc) * tangent[0] - np.sin(arc) * normal[0])
        left, right = p + normal * r[:, None], p - normal * r[:, None]
        return self.path(np.vstack([left, tail, right[::-1], *([] if flat else [head])]), **how)

    def fill(self, shape: Shape, colour: Colour, opacity: float | Array = 1.0, within: Shape | None = None) -> None:
        """Paint the shape over what is there, or only onto what is painted inside `within`. `colour` may be (H, W, 3) on the shape's window."""
        self._paint(shape, colour, shape.cover() * opacity, within)

    def soft(self, shape: Shape, colour: Colour, blur: float, opacity: float = 1.0, within: Shape | None = None) -> None:
        """The shape with blurred edges (sigma `blur` px)."""
        shape = self._roomier(shape, 3 * blur)
        self._paint(shape, colour, ndimage.gaussian_filter(shape.cover() * opacity, blur * SCALE), within)

    def _paint(self, shape: Shape, colour: Colour, cover: Array, within: Shape | None) -> None:
        if within is not None:
            self.wash(shape, colour, cover * np.clip(0.5 - shape.on(within) * SCALE, 0, 1))
            return
        area = shape.area()
        self.rgb[area] = self.rgb[area] * (1 - cover[..., None]) + rgb(colour) * cover[..., None]
        self.a[area] = self.a[area] * (1 - cover) + cover

    def wash(self, shape: Shape, colour: Colour, share: Array) -> None:
        """Tint what is painted by `share` (H, W), which has the factor `shape.cover()` in it, on the shape's window; the alpha stays."""
        area = shape.area()
        alpha = self.a[area]
        share = np.minimum(share / np.maximum(alpha, 1e-6), 1)  # where the picture ends with the shape, all that is painted is the shape's
        self.rgb[area] += (rgb(colour) * alpha[..., None] - self.rgb[area]) * share[..., None]

    def _roomier(self, shape: Shape, room: float) -> Shape:
        """The same shape on a window that is `room` px larger on every side, within the canvas."""
        h, w = shape.d.shape
        r = int(np.ceil(room * SCALE))
        top, left = max(shape.top - r, 0), max(shape.left - r, 0)
        bottom, right = min(shape.top + h + r, self.height * SCALE), min(shape.left + w + r, self.width * SCALE)
        whole = Shape(np.empty((bottom - top, right - left)), top, left)
        return whole.like(whole.on(shape))

    def shade(
        self, shape: Shape, bevel: float, light: Colour = "#fff0c8", dark: Colour = "#4a1420", lit: float = 1.0, dim: float = 0.55
    ) -> None:
        """Pillow shading: wash of `light` towards the upper left, of `dark` towards the lower right."""
        n, inside = shape.light(bevel), shape.cover()
        self.wash(shape, dark, np.clip(-n * dim, 0, 1) * inside)
        self.wash(shape, light, np.clip(n * lit, 0, 1) * inside)

    def mottle(self, shape: Shape, colour: Colour, amount: float, cell: float, seed: int, octaves: int = 2, stretch: float = 1.0) -> None:
        """Uneven patches of another colour."""
        self.wash(shape, colour, amount * smoothstep(-0.25, 0.75, shape.noise(cell, seed, octaves, stretch)) * shape.cover())

    def speckle(
        self,
        shape: Shape,
        count: int,
        radius: tuple[float, float],
        colours: Sequence[Colour],
        seed: int,
        depth: float = 4,
        opacity: float = 1.0,
    ) -> None:
        """Small uneven dots at random places at least `depth` px inside."""
        rng = np.random.default_rng([seed, 5])
        ys, xs = np.nonzero(shape.d < -depth)
        for _ in range(count if len(xs) else 0):
            k = int(rng.random() * len(xs))
            r = radius[0] + (radius[1] - radius[0]) * rng.random() ** 2
            x, y = (xs[k] + shape.left) / SCALE, (ys[k] + shape.top) / SCALE
            dot = self.ellipse(x, y, r, r * (0.55 + 0.45 * rng.random()), 180 * rng.random(), margin=2)
            self.fill(dot, colours[int(rng.random() * len(colours))], opacity, within=shape)

    def finish(self, bleed: int = 8, step: int = 4) -> NDArray[np.uint8]:
        """uint8 (H, W, 4), not premultiplied; colours run on `bleed` px outside the alpha, then stay constant (so that no fringe shows).

        Colours are rounded to multiples of `step`, which nobody sees in a textured picture and which halves the file.
        """
        h, w = self.height, self.width
        a = self.a.reshape(h, SCALE, w, SCALE).mean(axis=(1, 3))
        c = self.rgb.reshape(h, SCALE, w, SCALE, 3).mean(axis=(1, 3))
        alpha = nearest(a * 255)
        seen = alpha > 0
        colour = np.where(seen[..., None], c / np.maximum(a, 1e-9)[..., None], 0)
        if not seen.all():
            far, (i, j) = ndimage.distance_transform_edt(~seen, return_indices=True)
            colour = np.where((far <= bleed)[..., None], colour[i, j], colour[seen].mean(axis=0))
        colour = np.minimum(nearest(np.clip(colour, 0, 1) * 255 / step) * step, 255)
        return np.concatenate([colour, alpha[..., None]], axis=2).astype(np.uint8)
