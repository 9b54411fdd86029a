"""Meat for the grill: steak, ribs, drumstick, sausage, skewer. Outlined, painted inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from _brush import Array, Canvas, Points, Shape, mix, pts, smoothstep, spline

INK = "#3a1a16"  # the warm dark outline shared by all drawn sprites
CHAR = "#2a1210"


def outline(c: Canvas, shape: Shape, width: float = 6) -> None:
    """The drawn line around a shape, a touch heavier at the lower right."""
    c.fill(shape.grow(width), INK)


def grill_marks(
    c: Canvas, meat: Shape, angle: float, spacing: float, width: float, offset: float, seed: int, inset: float = 7, strength: float = 0.9
) -> None:
    """Parallel char stripes with uneven edges: a brown halo, the dark bar, and a thin light rim on the side away from the light."""
    x, y = meat.xy()
    turn = np.radians(angle)
    across = -np.sin(turn) * x + np.cos(turn) * y + 2.2 * meat.noise(34, seed) + 1.0 * meat.noise(9, seed + 1)
    to_bar = np.abs((across - offset + spacing / 2) % spacing - spacing / 2) - width / 2
    end = meat.d + inset + 5 * meat.noise(45, seed + 4)
    r = width / 2
    bar = np.hypot(np.maximum(to_bar + r, 0), np.maximum(end + r, 0)) - r  # both limits at once, with round ends
    rough = 1.5 * meat.noise(7, seed + 2, 2)
    patchy = 0.8 + 0.2 * smoothstep(-0.7, 0.1, meat.noise(26, seed + 3))
    inside = meat.cover()
    c.wash(meat, "#6b2414", 0.55 * smoothstep(8, -2, bar) * inside)
    c.wash(meat, CHAR, strength * patchy * smoothstep(1.6, -1.6, bar + rough) * inside)
    low = (across - offset + spacing / 2) % spacing - spacing / 2 - width / 2
    c.wash(meat, "#ffb877", 0.33 * np.exp(-(((low - 3.2) / 1.7) ** 2)) * smoothstep(2, -4, end) * inside)


def gloss(c: Canvas, strokes: Sequence[tuple[Points, float]], within: Shape, colour: str = "#fff3d6", opacity: float = 0.8) -> None:
    """Wet highlights: tapered strokes with slightly soft edges."""
    for points, width in strokes:
        c.soft(c.stroke(points, [width * 0.3, width, width * 0.9, width * 0.3]), colour, 1.0, opacity, within)


def steak() -> Canvas:
    c = Canvas()
    body = c.blob("66,218 102,120 196,72 302,78 398,118 458,196 462,286 414,356 330,392 262,432 172,436 108,382 92,310")
    meat = c.blob("88,222 120,140 202,96 296,98 374,136 416,198 416,268 376,314 310,342 246,380 182,392 134,362 112,300")
    outline(c, body, 7)
    c.fill(body, "#f3cf94")
    c.mottle(body, "#cf7d38", 0.85, 46, 11)
    c.mottle(body, "#fff0cc", 0.6, 24, 12)
    c.shade(body, 22, light="#fff6da", dark="#8a3a1c", lit=1.5, dim=0.75)
    c.soft(body.ring(13), "#a04c22", 3.5, 0.9, body)
    c.soft(meat.grow(3), "#9c4a28", 2.5, 0.85, body)
    x, y = meat.xy()
    glow = np.exp(-(((x - 235) / 150) ** 2 + ((y - 215) / 130) ** 2))
    c.fill(meat, mix("#7c2a1a", "#c65a34", glow))
    c.mottle(meat, "#e6884a", 0.55, 60, 13, 3)
    c.mottle(meat, "#6a2315", 0.6, 38, 14, 3)
    grain = np.abs(meat.noise(22, 15, 3, 2.4))  # marbling: thin veins where smooth noise crosses zero
    c.wash(meat, "#f0b483", 0.75 * smoothstep(0.075, 0.0, grain) * smoothstep(-0.1, 0.45, meat.noise(70, 16)) * meat.cover())
    c.shade(meat, 40, light="#ffc48a", dark="#3c0d12", lit=1.1, dim=0.6)
    seam = "318,118 306,164 330,206 324,248 352,292 346,322"  # the fat seam of a rib-eye
    c.soft(c.stroke(seam, [5, 17, 12, 19, 11, 4]), "#8c3420", 2, 0.7, meat)
    c.fill(c.stroke(seam, [3, 12, 8, 14, 8, 2]), "#f2c690", 0.96, meat)
    c.soft(c.stroke("313,130 304,164 326,206 320,246", [1, 5, 3, 1]), "#fff0d0", 0.8, 0.7, meat)
    for line, w in (
        ("150,250 190,236 216,250", 6),
        ("196,330 232,318 262,330", 6),
        ("228,140 252,158 248,184", 5),
        ("372,190 390,214 386,240", 5),
    ):
        c.fill(c.stroke(line, [1, w, w * 0.7, 1]), "#eab583", 0.85, meat)
    grill_marks(c, body, -38, 76, 18, 18, 21, inset=26)
    gloss(
        c,
        [
            ("122,196 146,150 196,122", 11),
            ("220,113 246,109 270,111", 7),
            ("122,230 121,244 123,258", 6),
        ],
        body,
    )
    gloss(
        c,
        [("236,262 260,250 284,252", 6), ("176,300 186,288 200,284", 5), ("380,170 394,186 402,204", 5)],
        body,
        "#ffd9a8",
        0.75,
    )
    c.speckle(meat, 70, (0.9, 2.4), ["#2b1511", "#4a2216", "#f6dcae"], 31, depth=8, opacity=0.85)
    c.speckle(meat, 26, (1.6, 3.6), ["#5d7a33", "#86a044"], 32, depth=12)
    return c


def ribs() -> Canvas:
    c = Canvas()
    bones, slabs = [], []
    for k in range(5):
        x, lean = 108 + 74 * k, (k - 2) * 7.0
        top, bottom = 92 + 7 * abs(k - 2), 424 - 9 * abs(k - 2)
        line = [(x - lean, top), (x - lean * 0.5 - 3, 180), (x, 260), (x + lean * 0.7 + 2, 340), (x + lean, bottom)]
        shaft = c.stroke(line, [27, 22, 22, 22, 27])
        knob = [c.ellipse(px + s * 8, py, 11.5, 12.5) for (px, py) in (line[0], line[-1]) for s in (-1, 1)]
        bone = shaft
        for piece in knob:
            bone = bone | piece
        bones.append(bone)
        slabs.append(x)
    slab = c.blob(
        "62,172 112,148 146,160 184,138 222,152 258,132 294,150 330,138 368,158 408,146 452,176 462,250 452,340 "
        "412,366 372,350 332,374 294,358 256,380 220,360 182,376 144,352 104,364 62,342 50,256"
    )
    whole = slab
    for bone in bones:
        whole = whole | bone
    outline(c, whole, 7)
    for bone in bones:
        c.fill(bone, "#f4e2bd")
        c.mottle(bone, "#d8b27c", 0.6, 16, 41, 2)
        c.shade(bone, 10, light="#fffaf0", dark="#8a5a34", lit=1.4, dim=0.8)
    c.soft(slab.grow(7), INK, 1.0, 0.95, whole)
    x, y = slab.xy()
    ridge = np.cos((x - 108) / 74 * 2 * np.pi) * np.ones_like(y)
    base = mix("#8e2c16", "#d1602a", smoothstep(-1, 1, ridge + 0.5 * slab.noise(50, 42, 2)))
    c.fill(slab, base)
    c.mottle(slab, "#f0913c", 0.5, 30, 43, 3)
    c.mottle(slab, "#5c1610", 0.6, 44, 44, 3)
    wave = -np.sin((x - 108) / 74 * 2 * np.pi) * np.ones_like(y)
    c.wash(slab, "#42100e", 0.45 * smoothstep(0.1, 1, -wave) * slab.cover())
    c.wash(slab, "#ffbf6c", 0.34 * smoothstep(0.2, 1, wave) * slab.cover())
    c.shade(slab, 30, light="#ffc880", dark="#35090c", lit=1.0, dim=0.75)
    grill_marks(c, slab, 12, 66, 13, 4, 45, inset=6, strength=0.72)
    for k, sx in enumerate(slabs):
        top = 176 + 5 * abs(k - 2)
        gloss(
            c,
            [
                ([(sx - 17, top + 4), (sx - 19, top + 34), (sx - 17, top + 66)], 9),
                ([(sx - 16, top + 92), (sx - 17, top + 108), (sx - 15, top + 124)], 7),
                ([(sx + 12, top + 30), (sx + 13, top + 44), (sx + 12, top + 56)], 4),
            ],
            slab,
            "#ffe9bd",
            0.85,
        )
    c.speckle(slab, 110, (0.9, 2.6), ["#2b0d0a", "#ffd486", "#3f140c"], 46, depth=8, opacity=0.8)
    c.speckle(slab, 26, (1.8, 3.8), ["#6d8f3a", "#96b552"], 47, depth=14)
    return c


def drumstick() -> Canvas:
    c = Canvas()
    shaft = c.stroke("250,306 330,372 398,428", [46, 32, 32])
    bone = shaft | c.ellipse(398, 446, 25, 22) | c.ellipse(424, 420, 25, 22)
    flesh = c.blob("62,186 84,112 150,66 230,64 294,106 322,176 326,238 338,300 352,346 344,380 312,388 274,366 220,346 150,334 90,272")
    outline(c, bone | flesh, 7)
    c.fill(bone, "#f6e7c8")
    c.mottle(bone, "#dfba86", 0.55, 26, 51)
    c.shade(bone, 15, light="#fffdf2", dark="#8a5a38", lit=1.2, dim=0.8)
    c.soft(flesh.grow(7), INK, 0.8, 0.95, bone | flesh)
    x, y = flesh.xy()
    glow = np.exp(-(((x - 178) / 120) ** 2 + ((y - 166) / 110) ** 2))
    c.fill(flesh, mix("#a64a17", "#f0a03e", glow))
    c.mottle(flesh, "#ffc25e", 0.5, 54, 52, 3)
    c.mottle(flesh, "#8c3411", 0.6, 40, 53, 3)
    c.mottle(flesh, "#4f1a0d", 0.4, 22, 54, 2)
    c.shade(flesh, 85, light="#ffe0a0", dark="#3f0d10", lit=1.0, dim=0.75)
    c.soft(c.stroke("348,342 340,366 316,380", [10, 20, 14]), "#5a1d0e", 5, 0.7, flesh)
    for line in (
        "258,300 290,326 306,352",
        "292,262 312,296 326,330",
        "226,318 254,336 276,354",
    ):  # skin folds at the ankle
        c.soft(c.stroke(line, [1, 7, 1]), "#6b230f", 1.2, 0.75, flesh)
        c.soft(c.stroke([(px - 5, py - 4) for px, py in pts(line)], [1, 5, 1]), "#ffd287", 1.2, 0.55, flesh)
    grill_marks(c, flesh, -24, 74, 15, 50, 55, inset=24, strength=0.75)
    gloss(
        c,
        [("104,190 116,140 162,104", 19), ("186,94 204,92 222,96", 11), ("122,224 124,236 130,248", 9)],
        flesh,
        "#fff4d2",
        0.85,
    )
    c.speckle(flesh, 90, (1, 2.8), ["#2f120b", "#5d250f", "#ffe09a"], 56, depth=14, opacity=0.8)
    c.speckle(flesh, 24, (1.8, 3.8), ["#5f8436", "#8fae4a"], 57, depth=20)
    return c


def sausage() -> Canvas:
    c = Canvas()
    line = "70,230 120,306 200,350 290,352 376,304 436,214"
    body = c.stroke(line, [76, 94, 100, 100, 94, 78])
    nub = c.stroke("66,220 50,190", [26, 15]) | c.stroke("440,206 458,176", [26, 15])
    outline(c, body | nub, 7)
    c.fill(nub, "#b45a2a")
    c.shade(nub, 8, lit=1.2)
    c.soft(body.grow(4), INK, 0.8, 0.85, body | nub)
    c.fill(body, "#bf5527")
    c.mottle(body, "#e6893f", 0.6, 44, 61, 3)
    c.mottle(body, "#8a2f16", 0.6, 34, 62, 3)
    c.shade(body, 46, light="#ffd18a", dark="#3d0c12", lit=1.25, dim=0.85)
    gloss(
        c,
        [
            ("74,240 98,276 128,300", 11),
            ("146,306 172,320 196,325", 11),
            ("222,322 256,325 282,321", 10),
            ("312,308 334,300 352,286", 9),
            ("384,262 398,244 408,224", 8),
        ],
        body,
        "#fff1cc",
        0.85,
    )
    p = spline(line, closed=False, steps=24)
    tangent = np.gradient(p, axis=0)
    for k, at in enumerate((16, 37, 59, 80, 101)):  # three-quarter cuts that opened on the grill
        t = tangent[at] / np.linalg.norm(tangent[at])
        n = np.array([-t[1], t[0]])
        cut = [tuple(p[at] + n * s * 33 + t * (s * 20 + 3 * (1 - s * s))) for s in (-1.0, -0.35, 0.35, 1.0)]
        c.soft(c.stroke(cut, [6, 21, 21, 6]), "#6a200f", 2.2, 0.85, body)
        c.fill(c.stroke(cut, [3, 14, 14, 3]), CHAR, 0.92, body)
        c.soft(c.stroke([(q[0] + 8 * t[0], q[1] + 8 * t[1]) for q in cut], [1, 5, 5, 1]), "#ffbe78", 1.0, 0.7, body)
        c.fill(c.stroke([(q[0] - 1 * t[0], q[1] - 1 * t[1]) for q in cut[1:3]], [1, 4, 1]), "#b5502a", 0.55 + 0.05 * k, body)
    c.speckle(body, 60, (0.9, 2.2), ["#33110b", "#ffcf8a"], 63, depth=12, opacity=0.8)
    return c


def _chunk(c: Canvas, x: float, y: float, w: float, h: float, angle: float, seed: int, kind: str) -> None:
    """One piece on the skewer: a rounded, slightly crooked box."""
    colours = {
        "meat": ("#b04a28", "#e08a4a", "#5e1a10"),
        "red": ("#dd3f2a", "#ff7a4c", "#8c1520"),
        "yellow": ("#f3b32f", "#ffe07a", "#b8641a"),
        "green": ("#77a838", "#b4d65c", "#3c6a26"),
        "onion": ("#efdcc0", "#fff6e4", "#b98a78"),
    }
    base, light, dark = colours[kind]
    rng = np.random.default_rng([seed, 9])
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    power = 0.45 if kind == "meat" else 0.38
    u, v = (np.sign(f) * np.abs(f) ** power for f in (np.cos(t), np.sin(t)))
    wob = 1 + 0.05 * np.cos(2 * t + 6 * rng.random()) + 0.04 * np.cos(3 * t + 6 * rng.random())
    a = np.radians(angle)
    px, py = u * wob * w / 2, v * wob * h / 2
    piece = c.path(spline(np.stack([x + np.cos(a) * px - np.sin(a) * py, y + np.sin(a) * px + np.cos(a) * py], axis=1), steps=4))
    outline(c, piece, 5)
    c.fill(piece, base)
    c.mottle(piece, light, 0.55, 26, seed, 2)
    c.mottle(piece, dark, 0.45, 24, seed + 1, 2)
    c.shade(piece, 24 if kind == "meat" else 16, light="#fff0c8", dark=dark, lit=1.2, dim=0.9)
    if kind in ("meat", "onion"):
        grill_marks(c, piece, angle + 62, 27, 8, 3 * seed, seed + 2, inset=3, strength=0.85 if kind == "meat" else 0.5)
    else:
        c.wash(piece, CHAR, 0.75 * smoothstep(0.0, 0.5, piece.noise(20, seed + 5)) * smoothstep(-6, 0, piece.d) * piece.cover())
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    shine: Array = np.array([[-0.30, 0.02], [-0.31, -0.2], [-0.2, -0.32], [0.06, -0.34]]) * [w, h] @ turn.T + [x, y]
    gloss(c, [([tuple(q) for q in shine], 6.5)], piece, "#fff6df", 0.85)
    c.speckle(piece, 12, (0.8, 1.9), [CHAR, "#ffe3ad"], seed + 6, depth=7, opacity=0.8)


def skewer() -> Canvas:
    c = Canvas()
    a, b = np.array([28.0, 484.0]), np.array([486.0, 26.0])
    stick = c.stroke([tuple(a), tuple((a + b) / 2), tuple(b)], [7, 7, 6.5, 6, 2.5], smooth=False)
    c.fill(stick.grow(0.8), "#4a2a17")
    c.fill(stick.grow(-0.9), "#d9a766")
    c.mottle(stick.grow(-0.9), "#a8713c", 0.7, 12, 71)
    c.soft(c.stroke([tuple(a + np.array([1, -2])), tuple(b - 1)], 1.6, smooth=False), "#fbe0ac", 0.4, 0.7)
    pieces = [
        ("meat", 0.235, 92, 84),
        ("red", 0.375, 50, 92),
        ("meat", 0.505, 90, 86),
        ("yellow", 0.635, 46, 88),
        ("meat", 0.755, 80, 78),
        ("green", 0.865, 40, 72),
    ]
    for k, (kind, at, w, h) in enumerate(pieces):
        x, y = a + (b - a) * at
        _chunk(c, float(x), float(y), w, h, -45 + (6, -5, 4, 7, -6, 5)[k], 80 + 10 * k, kind)
    return c
