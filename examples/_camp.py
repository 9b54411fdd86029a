"""Things around the fire: plate, logs, flame, sticks, fork, tongs, marshmallow, pixel art."""

from __future__ import annotations

import numpy as np
from _brush import Canvas, Shape, smoothstep, spline
from _meat import CHAR, INK, gloss, outline
from numpy.typing import NDArray


def plate() -> Canvas:
    """An enamel camp plate with its middle cut out: a ring with a real hole in the alpha."""
    c = Canvas()
    disc = c.ellipse(256, 256, 222, 222)
    hole = c.ellipse(256, 256, 92, 92)
    ring = disc - hole
    x, y = ring.xy()
    r = np.hypot(x - 256, y - 256)
    facing = ((x - 256) * -0.62 + (y - 256) * -0.78) / r
    c.fill(ring, "#f2ebda")
    slope = np.exp(-(((r - 160) / 12) ** 2)) - 0.75 * np.exp(-(((r - 184) / 9) ** 2))
    c.wash(ring, "#a58f78", np.clip(facing * slope, 0, 1) * 0.75 * ring.cover())
    c.wash(ring, "#ffffff", np.clip(-facing * slope, 0, 1) * 0.95 * ring.cover())
    c.wash(ring, "#8d7b6b", np.clip(-facing, 0, 1) * 0.16 * smoothstep(160, 215, r) * ring.cover())
    c.speckle(ring, 330, (0.8, 2.5), ["#5d7d92", "#3f6c8f", "#7d94a0"], 201, depth=16, opacity=0.75)
    rim = ring & ring.like(207 - r)
    c.fill(rim, "#2f6488")
    c.wash(rim, "#8fc3dc", np.clip(facing * 1.2, 0, 1) * smoothstep(222, 214, r) * rim.cover())
    c.wash(rim, "#122c44", np.clip(-facing, 0, 1) * 0.7 * rim.cover())
    inner = ring & ring.like(r - 103)
    c.fill(inner, "#2f6488")
    c.wash(inner, "#8fc3dc", np.clip(-facing, 0, 1) * 0.7 * smoothstep(92, 98, r) * inner.cover())
    c.wash(inner, "#122c44", np.clip(facing, 0, 1) * 0.6 * inner.cover())
    for cx, cy, s, a in ((424, 330, 11, 40), (120, 410, 8, 130), (246, 164, 6, 10)):  # chips in the enamel
        chip = c.ellipse(cx, cy, s, s * 0.7, a, 0.3, cx)
        c.fill(chip.grow(1.5), "#d9cfbd", within=ring)
        c.fill(chip, "#2c2a2e", within=ring)
    arc = [(256 + 136 * np.cos(t), 256 + 136 * np.sin(t)) for t in np.linspace(3.3, 4.4, 7)]
    gloss(c, [(arc, 15), ([(256 + 136 * np.cos(t), 256 + 136 * np.sin(t)) for t in (4.55, 4.62, 4.69)], 11)], ring, "#ffffff", 0.9)
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
    shape = c.stroke([(ax, ay), ((ax + bx) / 2 + 2, (ay + by) / 2 - 3), (bx, by)], [thick, thick * 0.97, thick * 0.94])
    outline(c, shape, 6)
    _bark(c, shape, angle, seed)
    c.shade(shape, thick * 0.46, light="#ffd9a0", dark="#2a0e12", lit=0.85, dim=0.85)
    _end_grain(c, ax, ay, thick * 0.5 * squash, thick * 0.5, angle, seed)
    return shape


def log() -> Canvas:
    c = Canvas()
    twig = c.stroke([(300, 236), (326, 172), (360, 138)], [54, 40, 34])
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
            [
                (140, 380),
                (112, 290),
                (150, 216),
                (160, 262),
                (196, 210),
                (206, 130),
                (262, 44),
                (262, 44),
                (276, 128),
                (318, 186),
                (336, 150),
                (336, 150),
                (372, 230),
                (392, 310),
                (368, 386),
                (256, 420),
            ],
        ),
        (
            "#f47a20",
            [
                (168, 384),
                (150, 318),
                (176, 258),
                (194, 292),
                (224, 240),
                (240, 170),
                (262, 110),
                (262, 110),
                (284, 196),
                (314, 246),
                (334, 214),
                (334, 214),
                (354, 290),
                (344, 386),
                (256, 410),
            ],
        ),
        (
            "#ffbe34",
            [
                (196, 386),
                (188, 338),
                (208, 300),
                (222, 318),
                (246, 268),
                (258, 206),
                (258, 206),
                (280, 268),
                (300, 312),
                (318, 288),
                (318, 288),
                (326, 340),
                (316, 386),
                (256, 404),
            ],
        ),
        ("#fff0a6", [(220, 386), (220, 354), (236, 336), (256, 284), (256, 284), (278, 332), (294, 352), (292, 386), (256, 398)]),
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
            [
                (112, 400),
                (92, 300),
                (136, 214),
                (156, 262),
                (190, 190),
                (206, 110),
                (262, 30),
                (262, 30),
                (282, 120),
                (332, 178),
                (352, 140),
                (388, 226),
                (416, 320),
                (388, 408),
                (322, 458),
                (256, 470),
                (180, 452),
            ],
        ),
        (
            "#f7701c",
            11.0,
            0.9,
            [
                (146, 396),
                (132, 316),
                (166, 250),
                (188, 290),
                (222, 226),
                (236, 156),
                (262, 88),
                (262, 88),
                (286, 180),
                (322, 236),
                (344, 208),
                (366, 270),
                (380, 336),
                (358, 408),
                (306, 446),
                (256, 454),
                (196, 440),
            ],
        ),
        (
            "#ffa92c",
            8.0,
            0.95,
            [
                (178, 392),
                (172, 336),
                (196, 290),
                (212, 318),
                (244, 262),
                (258, 186),
                (258, 186),
                (284, 252),
                (310, 296),
                (328, 276),
                (342, 338),
                (326, 404),
                (290, 432),
                (256, 438),
                (212, 426),
            ],
        ),
        (
            "#ffd95e",
            7.0,
            0.95,
            [
                (206, 392),
                (204, 352),
                (222, 324),
                (238, 340),
                (258, 274),
                (258, 274),
                (282, 326),
                (296, 344),
                (306, 362),
                (298, 402),
                (256, 426),
                (222, 414),
            ],
        ),
        (
            "#fff7cf",
            7.0,
            0.95,
            [(228, 394), (230, 366), (246, 350), (258, 318), (258, 318), (272, 352), (280, 370), (276, 398), (256, 412), (236, 406)],
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
    return c


def sticks() -> Canvas:
    """Long thin sticks, one of them tapering to a point, one forked, in separate pieces."""
    c = Canvas()
    shapes: list[tuple[list[tuple[float, float]], list[float], str]] = [
        ([(40, 470), (150, 340), (262, 226), (392, 70)], [15, 14, 12, 8], "#8a5330"),
        ([(150, 488), (210, 360), (300, 250), (334, 210), (440, 150)], [12, 12, 10, 8, 2.5], "#a8703e"),
        ([(258, 486), (330, 372), (404, 300), (484, 236)], [8, 8, 7, 6], "#d8a768"),
        ([(30, 330), (98, 226), (140, 130), (170, 26)], [9, 8.5, 7, 2], "#6e4227"),
        ([(380, 492), (424, 452), (490, 372)], [6, 6, 6], "#d8a768"),
    ]
    forks = [([(262, 226), (292, 168), (296, 110)], [9, 7, 3], 0), ([(108, 208), (78, 170), (62, 118)], [7, 5, 2], 3)]
    for k, (line, widths, colour) in enumerate(shapes):
        stick = c.stroke(line, widths)
        for fork, w, owner in forks:
            if owner == k:
                stick = stick | c.stroke(fork, w)
        c.fill(stick.grow(1.6), INK)
        c.fill(stick, colour)
        c.mottle(stick, "#f0c890", 0.5, 14, 231 + k, 2)
        c.mottle(stick, "#40221a", 0.55, 11, 241 + k, 2)
        c.shade(stick, max(widths) / 2, light="#ffe9bc", dark="#2a0e12", lit=1.2, dim=0.9)
        p = spline(line, closed=False)
        for at in range(9, len(p) - 6, 17):
            c.fill(c.ellipse(p[at, 0], p[at, 1], 1.8, 2.6, 40 * k, margin=2), "#2f1812", 0.8, stick)
    return c


def grill_fork() -> Canvas:
    """Long and thin: two prongs, a steel shaft of 9 px, a wooden handle with a leather loop."""
    c = Canvas(512, 512)
    a = np.radians(-45)

    def at(u: float, v: float) -> tuple[float, float]:
        return 62 + np.cos(a) * u - np.sin(a) * v, 450 + np.sin(a) * u + np.cos(a) * v

    shaft = c.stroke([at(120, 0), at(430, 0)], [12, 9], smooth=False)
    yoke = c.stroke([at(516, -21), at(470, -22), at(440, -16), at(426, 0), at(440, 16), at(470, 22), at(516, 21)], [7, 8, 9, 10, 9, 8, 7])
    prongs = c.stroke([at(500, -21.5), at(574, -18)], [7.4, 2], smooth=False) | c.stroke(
        [at(500, 21.5), at(574, 18)], [7.4, 2], smooth=False
    )
    steel = shaft | yoke | prongs
    loop = c.stroke([at(0, 0), at(-30, 18), at(-48, 2), at(-34, -16), at(-2, -3)], 5)
    handle = c.blob(
        [
            at(-10, 0),
            at(0, -15),
            at(40, -18),
            at(90, -14),
            at(132, -17),
            at(158, -11),
            at(164, 0),
            at(158, 11),
            at(132, 17),
            at(90, 14),
            at(40, 18),
            at(0, 15),
        ]
    )
    c.fill(loop.grow(3), INK)
    c.fill(loop, "#a4653a")
    outline(c, steel, 3.5)
    c.fill(steel, "#aeb4bb")
    c.shade(steel, 5, light="#ffffff", dark="#1c2433", lit=1.6, dim=0.9)
    c.mottle(steel.grow(-1), "#5a4038", 0.4, 26, 251)
    outline(c, handle, 5)
    c.fill(handle, "#a85f2e")
    c.mottle(handle, "#d99550", 0.6, 20, 252, 2)
    u, v = (
        (np.cos(a) * (handle.xy()[0] - 62) + np.sin(a) * (handle.xy()[1] - 450)),
        (-np.sin(a) * (handle.xy()[0] - 62) + np.cos(a) * (handle.xy()[1] - 450)),
    )
    c.wash(handle, "#6a3418", 0.5 * smoothstep(0.2, 1, np.sin(v / 2.1 + 1.6 * handle.noise(60, 253))) * handle.cover())
    c.shade(handle, 17, light="#fff0c8", dark="#35100c", lit=1.2, dim=0.85)
    ferrule = handle.like(np.maximum(handle.d, np.abs(u - 152) - 9))
    c.fill(ferrule.grow(2), INK, within=handle)
    c.fill(ferrule, "#d9a94e", within=handle)
    c.shade(handle.like(np.maximum(handle.d, np.abs(u - 152) - 9)), 9, light="#fff6cc", dark="#5a2c10", lit=1.4, dim=0.8)
    for k in (34, 92):
        x, y = at(k, 0)
        c.fill(c.ellipse(x, y, 5.5, 5.5), "#4a2412")
        c.fill(c.ellipse(x - 0.5, y - 0.7, 3.8, 3.8), "#e8bd62")
    return c


def tongs() -> Canvas:
    """Two long arms that meet at a spring: a deep open V."""
    c = Canvas()
    upper: list[tuple[float, float]] = [(64, 430), (96, 356), (200, 236), (322, 128), (420, 60)]
    lower: list[tuple[float, float]] = [(74, 440), (150, 420), (276, 322), (386, 214), (452, 124)]
    arms = c.stroke(upper, [22, 17, 15, 15, 24]) | c.stroke(lower, [22, 17, 15, 15, 24])
    for x, y, t in ((428, 56, -35), (456, 116, -60)):
        arms = arms | c.ellipse(x, y, 23, 15, t, 0.04, 3)
    outline(c, arms, 5)
    c.fill(arms, "#b4bac0")
    c.mottle(arms, "#7d8790", 0.6, 40, 261)
    c.mottle(arms, "#6a4434", 0.3, 22, 262)
    c.shade(arms, 9, light="#ffffff", dark="#1b2232", lit=1.7, dim=0.9)
    for line in (upper, lower):
        p = spline(line, closed=False)
        n = len(p)
        grip = c.stroke([tuple(q) for q in p[int(n * 0.18) : int(n * 0.47) : 4]], [19, 22, 22, 19])
        outline(c, grip, 4)
        c.fill(grip, "#c8412c")
        c.shade(grip, 10, light="#ffd0a8", dark="#4a0d16", lit=1.5, dim=0.85)
    c.fill(c.ellipse(72, 434, 8, 8), INK)
    c.fill(c.ellipse(71, 433, 5.5, 5.5), "#e8bd62")
    return c


def marshmallow() -> Canvas:
    """Two toasted marshmallows on a whittled stick."""
    c = Canvas()
    stick = c.stroke([(36, 480), (180, 340), (330, 192), (462, 52)], [17, 15, 13, 4])
    c.fill(stick.grow(3.5), INK)
    c.fill(stick, "#9a6236")
    c.mottle(stick, "#dcae70", 0.6, 18, 271, 2)
    c.mottle(stick, "#4a2818", 0.5, 14, 272, 2)
    c.shade(stick, 8, light="#ffe9bc", dark="#2a0e12", lit=1.2, dim=0.9)
    for k, (x, y, s) in enumerate(((216, 302, 1.0), (322, 196, 0.97))):
        u, v = np.array([0.70, -0.714]) * s, np.array([0.714, 0.70]) * s
        box = [(-58, 0), (-57, -58), (-44, -74), (0, -79), (44, -74), (57, -58), (59, 0), (56, 58), (44, 73), (0, 78), (-44, 74), (-57, 58)]
        puff = c.blob([(x + p * u[0] + q * v[0], y + p * u[1] + q * v[1]) for p, q in box])
        outline(c, puff, 6)
        c.fill(puff, "#fdf1dc")
        px, py = puff.xy()
        down = ((px - x) * 0.35 + (py - y) * 0.94) / 80
        toast = smoothstep(-0.35, 0.95, down + 0.42 * puff.noise(40, 273 + k, 3))
        c.wash(puff, "#f0bd74", 0.85 * toast * puff.cover())
        c.wash(puff, "#b0622a", 0.9 * smoothstep(0.45, 1.0, toast) * puff.cover())
        c.wash(puff, "#4a2012", 0.85 * smoothstep(0.82, 1.05, toast + 0.12 * puff.noise(12, 275 + k, 2)) * puff.cover())
        c.shade(puff, 34, light="#ffffff", dark="#7a341c", lit=1.2, dim=0.6)
        gloss(c, [([(x - 46, y - 2), (x - 34, y - 34), (x - 8, y - 52)], 12)], puff, "#ffffff", 0.8)
        c.speckle(puff, 26, (0.9, 2.2), ["#8a4a22", "#c98a4a"], 276 + k, depth=10, opacity=0.6)
    return c


_LOG = """
......kkkkkkkkkkkkkkkk....
....kkbbbbhbbbbbbbhbbbkk..
..kkkkbhhhhbbhhhhbbbhhbbk.
.kttttkbbbbbbbbbbbbbbbbbk.
.ktrrttkbbddbbbbbhhbbbdbbk
kttttrtkbbbbbbhbbbbbbbbbbk
ktrrtrtkdbbbhhhhbbbddbbbbk
ktrdrtrtkbbbbbbbbkkbbbbbdk
ktrtrtrtkbbbbdbbbkddkbbbbk
ktrrtrttkdbbbbbbbbkkbbdbdk
kttttrtkdddbbdbbbbbbbbbddk
.ktrrttkbdbddbbdbddbbbddk.
.kttttkdddddddbdddddbdddk.
..kkkkdddddddddddddddddk..
.....kkkkkkkkkkkkkkkkkk...
"""
_BROWNS = {"k": "#2e1712", "b": "#8a5330", "h": "#b97f4a", "d": "#5e3521", "t": "#ecc588", "r": "#c08748"}

_FIRE = """
...............rr...............
...............rrr..............
..............rrrr..............
.............rrorr....r.........
........r....rroorr...r.........
........r...rrooorr..rr.........
.......rr...rooyoorr.rrr........
.......rrr.rrooyyoorrrorr.......
......rrorrrooyyyoorrooor.......
......roorrooyyyyyooroyor.......
.....rroorooyyywyyooooyorr......
.....roooooyyywwwyyooyyoor......
.....royyooyywwwwwyyyyyyorr.....
.....royyyyywwwwwwwyyyyoor......
.....rroyyyywwwwwwwwyyyoor......
...kk.rooyyywwwwwwwwyyoork.kk...
..khbkkrooyyyywwwwyyyyorkkkhbk..
..ktbbbkkrooyyyyyyyyookkbbbbtk..
..kttbbbbkkroooooooorkbbbbbttk..
...kkbbhbbbkkroooorkkbbhbbdkk...
.....kkbbbhbbkkkkkkbbbbbdkk.....
..gg...kkbbbbbbhhbbbbbdkk..gg...
.gllgg..kkkbbbbbbbbbdkkk.gglmg..
.glmmmgkbbbbbdbbbbdbbbbdkglmmg..
.gmmmmgkhbbdkkbbdkkkdbbbkgmmmg..
..gggggkbbdkggggggggkdbdkgggg...
.......kkkkgllmgglmmgkkkk.......
..........gglmmmglmmmgg.........
...........ggggggggggg..........
"""
_FIRES = {**_BROWNS, "r": "#d8401f", "o": "#f58a24", "y": "#ffc93c", "w": "#fff3b4", "g": "#463c40", "l": "#b3a699", "m": "#82766f"}


def _pixels(rows: str, palette: dict[str, str]) -> NDArray[np.uint8]:
    lines = rows.split()
    width = max(len(line) for line in lines)
    out = np.zeros((len(lines), width, 4), dtype=np.uint8)
    for y, line in enumerate(lines):
        for x, key in enumerate(line):
            if key != ".":
                out[y, x] = [*(int(palette[key][i : i + 2], 16) for i in (1, 3, 5)), 255]
    return out


def pixel_log() -> NDArray[np.uint8]:
    """Pixel art, 26 x 15, hard alpha, six colours, not scaled up."""
    return _pixels(_LOG, _BROWNS)


def pixel_campfire() -> NDArray[np.uint8]:
    """Pixel art, 32 pixels wide, hard alpha, twelve colours."""
    return _pixels(_FIRE, _FIRES)
