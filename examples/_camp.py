"""Around the fire: plate, log, camp fire, flame."""

from __future__ import annotations

import numpy as np

from _brush import Canvas, Shape, smoothstep
from _meat import CHAR, INK, gloss, outline


def plate() -> Canvas:
    """An enamel camp plate with its middle cut out: a ring with a real hole in the alpha."""
    c = Canvas()
    disc = c.ellipse(256, 256, 222, 222)
    hole = c.ellipse(256, 256, 92, 92)
    ring = disc - hole
    x, y = ring.xy()
    r = np.hypot(x - 256, y - 256)
    facing = ((x - 256) * -0.62 + (y - 256) * -0.78) / r
    c.fill(ring, "#2f6488")  # the rim's colour lies below: painted over cream, it would leave a pale fringe in the alpha's edge
    c.fill(ring & ring.like(np.maximum(r - 212, 100 - r)), "#f1e9d8")
    lip, wall = smoothstep(160, 170, r) * smoothstep(213, 205, r), np.exp(-(((r - 160) / 6) ** 2))
    dished = -facing * (0.32 * lip + 0.95 * wall)  # lip and wall face the middle: lit at the lower right
    c.wash(ring, "#8a7563", np.clip(-dished, 0, 1) * 0.75 * ring.cover())
    c.wash(ring, "#ffffff", np.clip(dished, 0, 1) * 0.9 * ring.cover())
    c.wash(ring, "#7d6a5c", 0.16 * smoothstep(172, 150, r) * ring.cover())
    c.speckle(ring, 260, (0.8, 2.2), ["#5d7d92", "#3f6c8f", "#7d94a0"], 201, depth=10, opacity=0.7)
    smear = c.stroke("150,214 128,258 142,306 176,344 214,364", [16, 30, 22, 30, 15])
    for blot in ((240, 372, 11), (258, 376, 5), (150, 196, 6), (140, 184, 3.5)):
        smear = smear | c.ellipse(*blot, blot[2] * 0.8, 20, 0.1, int(blot[0]))
    c.soft(smear.grow(1), "#5a2a18", 2.5, 0.5, ring)
    c.fill(smear, "#a63a1c", within=ring)
    c.mottle(smear, "#d9652c", 0.7, 16, 203, 2)
    c.shade(smear, 8, light="#ffe2b0", dark="#4a0f10", lit=1.6, dim=0.9)
    gloss(c, [("138,238 134,262 140,286", 6), ("156,316 168,330 182,340", 5)], smear, "#fff0d0", 0.85)
    for x0, y0, a in ((330, 150, 20), (350, 168, -40), (366, 348, 60), (300, 372, 10)):  # herbs and crumbs
        leaf = c.ellipse(x0, y0, 12, 5.5, a, 0.12, x0)
        c.soft(c.ellipse(x0 + 2, y0 + 3, 12, 5.5, a, 0.12, x0), "#5a3a28", 1.5, 0.6, ring)
        c.fill(leaf, "#5f9438")
        c.shade(leaf, 4, light="#e3f294", dark="#234a1e", lit=1.5)
    c.speckle(ring, 34, (1.5, 4.2), ["#b06a30", "#7a3c1c", "#d99a50"], 205, depth=14)
    rim = ring & ring.like(212 - r)
    c.wash(rim, "#9fcfe4", np.clip(facing, 0, 1) * 0.8 * rim.cover())
    c.wash(rim, "#14304a", np.clip(-facing, 0, 1) * 0.6 * rim.cover())
    inner = ring & ring.like(r - 100)
    c.wash(inner, "#9fcfe4", np.clip(-facing, 0, 1) * 0.6 * inner.cover())
    c.wash(inner, "#14304a", np.clip(facing, 0, 1) * 0.5 * inner.cover())
    for cx, cy, s, a in ((432, 322, 12, 40), (116, 412, 9, 130)):  # chips in the enamel
        chip = c.ellipse(cx, cy, s, s * 0.7, a, 0.3, cx)
        c.fill(chip.grow(1.5), "#d9cfbd", within=ring)
        c.fill(chip, "#2c2a2e", within=ring)
    arc = [(256 + 192 * np.cos(t), 256 + 192 * np.sin(t)) for t in np.linspace(0.35, 1.15, 7)]
    gloss(c, [(arc, 9), ("122,112 146,92 172,78", 7)], ring, "#ffffff", 0.85)
    return c


def _bark(c: Canvas, log: Shape, angle: float, seed: int) -> None:
    """Brown bark with long dark cracks along `angle` (degrees)."""
    x, y = log.xy()
    a = np.radians(angle)
    u, v = np.cos(a) * x + np.sin(a) * y, -np.sin(a) * x + np.cos(a) * y
    c.fill(log, "#8a5330")
    c.mottle(log, "#b98250", 0.6, 30, seed, 2)
    c.mottle(log, "#5a3220", 0.6, 26, seed + 1, 2)
    wave = v + 5 * log.noise(48, seed + 2, 2) + 0.5 * np.sin(u / 23)
    crack = np.abs(np.sin(wave / 5.4)) + 0.42 * log.noise(20, seed + 3, 2)
    c.wash(log, "#3b1f16", 0.85 * smoothstep(0.34, 0.05, crack) * log.cover())
    shifted = np.abs(np.sin((wave - 2.6) / 5.4)) + 0.42 * log.noise(20, seed + 3, 2)
    c.wash(log, "#d6a06a", 0.5 * smoothstep(0.26, 0.05, shifted) * log.cover())


def _end_grain(c: Canvas, x: float, y: float, rx: float, ry: float, angle: float, seed: int) -> None:
    """The sawn end of a log: rings, radial cracks."""
    face = c.ellipse(x, y, rx, ry, angle, 0.03, seed)
    c.fill(face.grow(4.5), INK)
    c.fill(face, "#8a5330")
    wood = face.grow(-5)
    c.fill(wood, "#e9c086")
    px, py = wood.xy()
    a = np.radians(angle)
    u, v = (np.cos(a) * (px - x) + np.sin(a) * (py - y)) / rx, (-np.sin(a) * (px - x) + np.cos(a) * (py - y)) / ry
    r = np.hypot(u, v) + 0.03 * wood.noise(22, seed, 2)
    c.wash(wood, "#c48a4c", 0.8 * smoothstep(0.1, 0.75, np.sin(r * 27 + 0.6)) * wood.cover())
    c.wash(wood, "#b06f3a", 0.55 * smoothstep(0.3, 0.0, r) * wood.cover())
    for k, t in enumerate((0.5, 2.3, 3.6, 5.2)):
        reach = (0.86, 0.6, 0.75, 0.5)[k]
        tips = [
            (
                x + np.cos(a) * rx * f * np.cos(t) - np.sin(a) * ry * f * np.sin(t),
                y + np.sin(a) * rx * f * np.cos(t) + np.cos(a) * ry * f * np.sin(t),
            )
            for f in (0.04, reach / 2, reach)
        ]
        c.fill(c.stroke(tips, [3.2, 2.2, 0.8]), "#7a4423", 0.85, wood)
    c.shade(wood, 10, light="#fff3cc", dark="#7a3c1c", lit=0.9, dim=0.6)


def _log(c: Canvas, ax: float, ay: float, bx: float, by: float, thick: float, seed: int, squash: float = 0.62) -> Shape:
    """A lying log from (ax, ay), where its sawn end shows, to (bx, by)."""
    angle = float(np.degrees(np.arctan2(by - ay, bx - ax)))
    shape = c.stroke([(ax, ay), ((ax + bx) / 2 + 2, (ay + by) / 2 - 3), (bx, by)], [thick, thick * 0.97, thick * 0.94], flat=True)
    shape = shape | c.ellipse(ax, ay, thick * 0.5 * squash, thick * 0.5, angle)
    outline(c, shape, 6)
    _bark(c, shape, angle, seed)
    c.shade(shape, thick * 0.46, light="#ffd9a0", dark="#2a0e12", lit=0.85, dim=0.85)
    _end_grain(c, ax, ay, thick * 0.5 * squash, thick * 0.5, angle, seed)
    return shape


def log() -> Canvas:
    c = Canvas()
    twig = c.stroke("300,236 326,172 360,138", [54, 40, 34])
    outline(c, twig, 6)
    _bark(c, twig, -60, 211)
    c.shade(twig, 18, light="#ffd9a0", dark="#2a0e12", lit=0.9, dim=0.8)
    _end_grain(c, 362, 134, 19, 13, 40, 212)
    _log(c, 118, 322, 430, 244, 142, 213)
    for x, y, s in ((268, 330, 19), (398, 222, 13)):  # knots
        knot = c.ellipse(x, y, s, s * 0.75, -14, 0.1, x)
        c.fill(knot, "#4a2818")
        c.fill(knot.grow(-4), "#a86c3c")
        c.fill(knot.grow(-9), "#4a2818")
    for x, y, r in ((236, 238, 17), (256, 229, 21), (282, 226, 17), (300, 232, 11), (446, 300, 15), (434, 312, 12)):  # moss
        tuft = c.ellipse(x, y, r, r * 0.72, -10, 0.14, int(x))
        c.fill(tuft.grow(1.5), "#3a5a26", 0.8)
        c.fill(tuft, "#7fa640")
        c.shade(tuft, r * 0.7, light="#e3f294", dark="#2f5024", lit=1.2)
    return c


def campfire() -> Canvas:
    """Stones in a ring, crossed logs, hard-edged flames: one outlined object with many parts."""
    c = Canvas()
    stones = [
        (96, 384, 44, 34),
        (60, 410, 36, 30),
        (416, 384, 44, 34),
        (452, 410, 36, 30),
        (136, 440, 52, 38),
        (376, 440, 52, 38),
        (222, 456, 50, 36),
        (298, 458, 50, 34),
    ]

    def stone(x: float, y: float, rx: float, ry: float) -> None:
        s = c.ellipse(x, y, rx, ry, 0, 0.06, int(x))
        outline(c, s, 6)
        c.fill(s, "#8d8078")
        c.mottle(s, "#b9a895", 0.6, 24, int(x), 2)
        c.shade(s, ry * 0.9, light="#fff0d2", dark="#2a1a24", lit=1.0, dim=0.9)
        toward = np.clip((s.xy()[0] - x) * np.sign(256 - x) / rx, 0, 1) + 0 * s.d
        c.wash(s, "#ff9a3c", 0.5 * toward * smoothstep(-ry * 0.9, 0, s.d) * s.cover())

    for item in stones[:1] + stones[2:3]:
        stone(*item)
    tongues = [
        (
            "#d93a1c",
            (
                "140,380 112,290 150,216 160,262 196,210 206,130 262,44 262,44 276,128 318,186 336,150 336,150 372,230 "
                "392,310 368,386 256,420"
            ),
        ),
        (
            "#f47a20",
            ("168,384 150,318 176,258 194,292 224,240 240,170 262,110 262,110 284,196 314,246 334,214 334,214 354,290 344,386 256,410"),
        ),
        (
            "#ffbe34",
            ("196,386 188,338 208,300 222,318 246,268 258,206 258,206 280,268 300,312 318,288 318,288 326,340 316,386 256,404"),
        ),
        ("#fff0a6", "220,386 220,354 236,336 256,284 256,284 278,332 294,352 292,386 256,398"),
    ]
    outline(c, c.blob(tongues[0][1]), 6)
    for colour, points in tongues:
        c.fill(c.blob(points), colour)
    for ax, ay, bx, by, thick, seed in ((404, 432, 176, 330, 56, 221), (108, 432, 336, 330, 58, 222), (256, 442, 252, 352, 60, 223)):
        shape = _log(c, ax, ay, bx, by, thick, seed, 0.8)
        near = np.exp(-(((shape.xy()[0] - 256) / 74) ** 2 + ((shape.xy()[1] - 350) / 46) ** 2))
        c.wash(shape, CHAR, 0.75 * near * shape.cover())
        ember = np.abs(shape.noise(13, seed + 9, 2))
        c.wash(shape, "#ff8a2a", near * smoothstep(0.16, 0.0, ember) * shape.cover())
        c.wash(shape, "#ffe08a", near * smoothstep(0.06, 0.0, ember) * shape.cover())
    for item in stones[1:2] + stones[3:]:
        stone(*item)
    return c


def flame() -> Canvas:
    """Soft everywhere: the alpha fades over tens of pixels."""
    c = Canvas()
    layers = [
        (
            "#e2401a",
            17.0,
            0.8,
            (
                "112,400 92,300 136,214 156,262 190,190 206,110 262,30 262,30 282,120 332,178 352,140 388,226 416,320 "
                "388,408 322,458 256,470 180,452"
            ),
        ),
        (
            "#f7701c",
            11.0,
            0.9,
            (
                "146,396 132,316 166,250 188,290 222,226 236,156 262,88 262,88 286,180 322,236 344,208 366,270 380,336 "
                "358,408 306,446 256,454 196,440"
            ),
        ),
        (
            "#ffa92c",
            8.0,
            0.95,
            ("178,392 172,336 196,290 212,318 244,262 258,186 258,186 284,252 310,296 328,276 342,338 326,404 290,432 256,438 212,426"),
        ),
        (
            "#ffd95e",
            7.0,
            0.95,
            "206,392 204,352 222,324 238,340 258,274 258,274 282,326 296,344 306,362 298,402 256,426 222,414",
        ),
        (
            "#fff7cf",
            7.0,
            0.95,
            "228,394 230,366 246,350 258,318 258,318 272,352 280,370 276,398 256,412 236,406",
        ),
    ]
    for colour, blur, opacity, points in layers:
        c.soft(c.blob(points), colour, blur, opacity)
    for x, y, r, o in (
        (150, 150, 7, 0.8),
        (372, 96, 6, 0.7),
        (330, 60, 4.5, 0.7),
        (196, 70, 4.5, 0.6),
        (416, 190, 5, 0.7),
        (100, 222, 5, 0.6),
    ):  # sparks
        c.soft(c.ellipse(x, y, r + 3, r + 3), "#ff7a1f", 3.5, o)
        c.soft(c.ellipse(x, y, r * 0.6, r * 0.6), "#ffe79a", 1.2, o)
    kept = np.clip(c.a - 0.014, 0, None) / 0.986 / np.maximum(c.a, 1e-9)  # the last faint veil would reach the picture's border
    c.rgb, c.a = c.rgb * kept[..., None], c.a * kept
    return c
