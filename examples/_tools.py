"""Long thin things: sticks, a grill fork, tongs, marshmallows on a stick."""

from __future__ import annotations

import numpy as np

from _brush import Canvas, pts, smoothstep, spline
from _meat import INK, gloss, outline


def sticks() -> Canvas:
    """Long thin sticks, one of them tapering to a point, one forked, in separate pieces."""
    c = Canvas()
    shapes: list[tuple[str, list[float], str]] = [
        ("40,470 150,340 262,226 392,70", [15, 14, 12, 8], "#8a5330"),
        ("150,488 210,360 300,250 334,210 440,150", [12, 12, 10, 8, 2.5], "#a8703e"),
        ("258,486 330,372 404,300 484,236", [8, 8, 7, 6], "#d8a768"),
        ("30,330 98,226 140,130 170,26", [9, 8.5, 7, 2], "#6e4227"),
        ("380,492 424,452 490,372", [6, 6, 6], "#d8a768"),
    ]
    forks = [("262,226 292,168 296,110", [9, 7, 3], 0), ("108,208 78,170 62,118", [7, 5, 2], 3)]
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
    upper = "64,430 96,356 200,236 322,128 420,60"
    lower = "74,440 150,420 276,322 386,214 452,124"
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
    stick = c.stroke("36,480 180,340 330,192 462,52", [17, 15, 13, 4])
    c.fill(stick.grow(3.5), INK)
    c.fill(stick, "#9a6236")
    c.mottle(stick, "#dcae70", 0.6, 18, 271, 2)
    c.mottle(stick, "#4a2818", 0.5, 14, 272, 2)
    c.shade(stick, 8, light="#ffe9bc", dark="#2a0e12", lit=1.2, dim=0.9)
    for k, (x, y, s) in enumerate(((216, 302, 1.0), (322, 196, 0.97))):
        u, v = np.array([0.70, -0.714]) * s, np.array([0.714, 0.70]) * s
        box = "-58,0 -57,-58 -44,-74 0,-79 44,-74 57,-58 59,0 56,58 44,73 0,78 -44,74 -57,58"
        puff = c.blob([(x + p * u[0] + q * v[0], y + p * u[1] + q * v[1]) for p, q in pts(box)])
        outline(c, puff, 6)
        c.fill(puff, "#fdf1dc")
        px, py = puff.xy()
        down = ((px - x) * 0.35 + (py - y) * 0.94) / 80
        toast = smoothstep(-0.7, 0.8, down + 0.42 * puff.noise(40, 273 + k, 3))
        c.wash(puff, "#f0bd74", 0.85 * toast * puff.cover())
        c.wash(puff, "#b0622a", 0.9 * smoothstep(0.4, 0.95, toast) * puff.cover())
        c.wash(puff, "#4a2012", 0.85 * smoothstep(0.84, 1.06, toast + 0.12 * puff.noise(12, 275 + k, 2)) * puff.cover())
        c.shade(puff, 34, light="#ffffff", dark="#7a341c", lit=1.2, dim=0.6)
        gloss(c, [([(x - 46, y - 2), (x - 34, y - 34), (x - 8, y - 52)], 12)], puff, "#ffffff", 0.8)
        c.speckle(puff, 26, (0.9, 2.2), ["#8a4a22", "#c98a4a"], 276 + k, depth=10, opacity=0.6)
    return c
