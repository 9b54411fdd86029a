"""Vegetables for the grill: corn, pepper, mushroom, onion ring, and two opaque pictures (egg on a plain ground, carrot with a mask beside it)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from _brush import Array, Canvas, Colour, mix, nearest, rgb, smoothstep, spline
from _meat import CHAR, INK, gloss, outline


def corn() -> Canvas:
    """Outlined; a cob with kernels in rows, in its husk."""
    c = Canvas()
    angle = np.radians(-52)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    root = np.array([150.0, 362.0])

    def at(u: float, v: float) -> tuple[float, float]:
        q = root + (along * u + across * v) * 1.1
        return float(q[0]), float(q[1])

    back = c.blob([at(-40, 0), at(20, -92), at(120, -112), at(214, -92), at(150, -40), at(150, 40), at(208, 100), at(112, 112), at(20, 92)])
    cob = c.blob(
        [at(-20, 0), at(20, -62), at(120, -74), at(230, -64), at(312, -40), at(350, 0), at(312, 40), at(230, 64), at(120, 74), at(20, 62)]
    )
    stem = c.stroke([at(-100, 6), at(-66, 0), at(-20, 0)], [30, 34, 44])
    left = c.blob(
        [
            at(-60, -6),
            at(-30, -60),
            at(30, -98),
            at(110, -108),
            at(188, -128),
            at(188, -128),
            at(140, -80),
            at(90, -36),
            at(50, 2),
            at(10, 18),
        ]
    )
    right = c.blob(
        [at(-60, 6), at(-30, 60), at(30, 96), at(100, 108), at(170, 136), at(170, 136), at(140, 78), at(96, 30), at(44, -14), at(0, -26)]
    )
    outline(c, back | cob | stem | left | right, 7)
    c.fill(back, "#5d8a34")
    c.shade(back, 30, light="#d8ec8a", dark="#1f3d1e")
    c.soft(cob.grow(7), INK, 0.8, 0.95, back | cob)
    c.fill(cob, "#b8701c")
    for row in range(-3, 4):
        for k in range(19):
            u = 6 + 18.6 * k + (9.3 if row % 2 else 0)
            taper = np.sqrt(max(0.0, 1 - ((u - 120) / 232) ** 2)) if u > 120 else 1.0
            v = 74 * taper * np.sin(row * np.radians(24.5))
            w = 24.5 * taper * np.cos(row * np.radians(24.5)) ** 0.7
            if w < 6 or u > 344:
                continue
            x, y = at(u, v)
            rng = np.random.default_rng([row + 10, k, 3])
            kernel = c.ellipse(x, y, 10.0, w * 0.55 - 0.4, -52, 0.05, k, margin=3)
            tone = mix("#f2a81f", "#ffd94a", rng.random())
            if rng.random() < 0.16:
                tone = mix(tone, "#7a3812", 0.35 + 0.4 * rng.random())
            c.fill(kernel, tone, within=cob)
            c.shade(kernel, 7, light="#fff6c4", dark="#a04a10", lit=1.6, dim=0.8)
            c.soft(c.ellipse(x - 3, y - 3.4, 3.0, 2.0, -40, margin=6), "#fffbe0", 0.5, 0.8, kernel)
    c.shade(cob, 60, light="#fff1b0", dark="#5c1d10", lit=0.4, dim=0.75)
    for u, v, w in ((96, 6, 40), (160, -24, 32), (172, 34, 28), (234, 4, 40), (288, -16, 24)):  # roasted spots
        x, y = at(u, v)
        c.soft(c.ellipse(x, y, w * 0.62, w * 0.3, 20, 0.2, int(u)), "#4a1c0c", 5, 0.62, cob)
    for leaf, ridge, seed in ((left, -1, 3), (right, 1, 5)):
        c.soft(leaf.grow(7), INK, 0.8, 0.95, back | cob | stem)
        c.fill(leaf, "#7fae3f")
        c.mottle(leaf, "#b9d661", 0.6, 40, seed)
        c.shade(leaf, 26, light="#f3f9b4", dark="#234a22", lit=1.3, dim=0.85)
        for k in range(4):
            lines = [
                at(-46 + 8 * k, ridge * (14 + 10 * k)),
                at(10 + 8 * k, ridge * (48 + 10 * k)),
                at(70 + 14 * k, ridge * (62 + 12 * k)),
                at(130 + 10 * k, ridge * (92 + 9 * k)),
            ]
            c.soft(c.stroke(lines, [1, 3.4, 2.6, 1]), "#4c7a2b" if k % 2 else "#d4e88a", 0.7, 0.6, leaf)
    c.fill(stem - left - right, "#a3b95a")
    c.shade(stem - left - right, 14, dark="#2f4a20")
    return c


def pepper() -> Canvas:
    """Flat vector: few colours, hard shadow and highlight shapes, outline of even width."""
    c = Canvas()
    body = c.blob(
        "256,138 300,118 362,122 412,164 426,240 406,330 372,408 330,442 290,430 258,444 220,430 182,442 140,408 "
        "106,330 86,240 100,164 150,122 212,118"
    )
    stem = c.stroke("254,146 250,104 262,74 296,52", [44, 28, 26, 34])
    crown = c.blob("196,138 226,124 256,128 288,122 318,140 318,140 296,154 282,178 282,178 258,162 232,180 232,180 220,156")
    whole = body | stem | crown
    c.fill(whole.grow(8), INK)
    c.fill(body, "#e2452c")
    shadow = body - c.blob("60,100 256,90 396,120 398,230 366,330 316,396 256,412 190,420 90,420 20,260")
    c.fill(shadow, "#b52a26", within=body)
    for line in ("206,168 178,250 188,340 216,424", "308,166 338,250 326,340 296,424"):
        c.fill(c.stroke(line, [3, 9, 8, 3]), "#9c2222", within=body)
    c.fill(c.stroke("128,254 126,206 150,166", [5, 22, 8]), "#ffc9a2", within=body)
    c.fill(c.ellipse(134, 292, 9, 13, 10), "#ffc9a2", within=body)
    c.fill(c.stroke("232,300 226,250 238,206", [4, 13, 5]), "#f57c55", within=body)
    c.fill(c.stroke("364,250 358,206 348,176", [3, 11, 5]), "#f57c55", within=body)
    c.fill((crown | stem).grow(7), INK, within=whole)
    c.fill(crown | stem, "#6fa33c")
    c.fill(c.stroke("266,150 262,106 276,82 304,64", [12, 9, 9, 12]), "#4a7a2e", within=stem | crown)
    c.fill(c.stroke("242,134 242,104 254,76 284,54", [3, 6, 6, 3]), "#b5d667", within=stem)
    c.fill(c.stroke("212,142 226,136 238,138", [2, 6, 2]), "#b5d667", within=crown)
    return c


def mushroom() -> Canvas:
    """Painterly: no outline, soft shading, a rim light."""
    c = Canvas()
    stem = c.blob("206,280 212,340 196,400 206,444 256,460 310,444 320,400 304,340 310,280")
    cap = c.blob("56,262 70,188 130,112 220,72 310,76 392,122 446,196 458,266 430,302 350,322 256,328 160,320 82,300")
    c.fill(stem, "#efdcb8")
    c.mottle(stem, "#c79d6a", 0.6, 50, 91, 3, 0.35)
    c.mottle(stem, "#fff6e2", 0.6, 30, 92, 2, 0.3)
    c.shade(stem, 52, light="#fffdf4", dark="#5a3422", lit=1.0, dim=0.85)
    c.soft(c.blob("190,270 256,318 330,270 330,350 256,366 188,346"), "#5a2f1e", 12, 0.75, stem)
    c.fill(cap, "#b06a38")
    x, y = cap.xy()
    c.wash(cap, "#e7a866", 0.95 * np.exp(-(((x - 200) / 120) ** 2 + ((y - 150) / 66) ** 2)) * cap.cover())
    c.mottle(cap, "#7c3f20", 0.55, 70, 93, 3, 1.6)
    c.mottle(cap, "#f3c488", 0.35, 34, 94, 2, 1.6)
    c.shade(cap, 96, light="#fff0cc", dark="#34100f", lit=0.9, dim=0.85)
    under = c.blob("76,290 160,300 256,304 356,300 438,288 430,304 350,324 256,330 160,322 82,302")
    c.soft(under, "#e8c79a", 2.5, 0.85, cap)
    for k in range(41):  # gills
        gx = 90 + 8.4 * k
        c.soft(
            c.stroke(
                [(gx, 294 + 8 * np.sin(k / 40 * np.pi)), (256 + (gx - 256) * 0.97, 328 - abs(gx - 256) * 0.04)], [1, 2.6], smooth=False
            ),
            "#8a5634",
            0.6,
            0.6,
            under,
        )
    for sx, sy, rx, ry, a in (
        (150, 174, 25, 17, -32),
        (236, 122, 34, 18, -6),
        (330, 140, 25, 16, 20),
        (274, 204, 29, 20, 4),
        (186, 238, 20, 14, -12),
        (382, 214, 22, 17, 38),
        (108, 236, 14, 12, -38),
        (336, 258, 18, 12, 10),
        (420, 264, 11, 10, 40),
    ):
        c.soft(c.ellipse(sx + 3, sy + 4, rx + 1, ry + 1, a, 0.1, sx), "#5a2a18", 3, 0.6, cap)
        spot = c.ellipse(sx, sy, rx, ry, a, 0.12, sx)
        c.fill(spot, "#f6e6c6", 0.96, cap)
        c.shade(spot, 8, light="#fffdf2", dark="#9a6640", lit=1.2, dim=0.9)
    c.soft(c.stroke("100,196 146,128 222,92", [2, 13, 3]), "#fff7e0", 4, 0.7, cap)
    c.soft(c.stroke("450,220 456,262 436,292", [2, 7, 2]), "#ff9d52", 2.2, 0.9, cap)  # the fire's rim light
    c.soft(c.stroke("306,350 318,404 306,440", [2, 6, 2]), "#ff9d52", 2.0, 0.8, stem)
    c.speckle(cap, 60, (0.9, 2.2), ["#5a2a18", "#f2cf9c"], 95, depth=10, opacity=0.6)
    c.speckle(stem, 30, (0.9, 2.4), ["#9a6c44", "#6b4128"], 96, depth=8, opacity=0.6)
    return c


def onion_ring() -> Canvas:
    """A real hole: golden breaded ring."""
    c = Canvas()
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    crumb = np.random.default_rng(101).random((2, 9, 2))

    def edge(rx: float, ry: float, rough: float, row: int) -> Array:
        r = 1 + rough * sum((crumb[row, k, 0] - 0.5) * np.cos((3 + 4 * k) * t + 6.3 * crumb[row, k, 1]) for k in range(9))
        return np.stack([256 + rx * r * np.cos(t), 258 + ry * r * np.sin(t)], axis=1)

    ring = c.path(edge(206, 196, 0.02, 0)) - c.path(edge(98, 90, 0.045, 1))
    outline(c, ring, 7)
    c.fill(ring, "#d98a2e")
    c.mottle(ring, "#ffca62", 0.8, 30, 102, 3)
    c.mottle(ring, "#8f4214", 0.7, 22, 103, 3)
    c.shade(ring, 54, light="#fff0b8", dark="#4a150c", lit=1.1, dim=0.9)
    c.shade(ring.like(ring.d + 3.5 * ring.noise(15, 104, 2)), 12, light="#fff3c4", dark="#5a1f0c", lit=0.7, dim=0.5)
    crumbs = np.random.default_rng(105)
    for _ in range(150):  # crumbs: a dark foot and a lit top each
        a, r = 2 * np.pi * crumbs.random(), 0.1 + 0.8 * crumbs.random()
        px, py = 256 + np.cos(a) * (100 + 100 * r), 258 + np.sin(a) * (92 + 98 * r)
        size = 2.5 + 4.5 * crumbs.random() ** 2
        turn = 180 * crumbs.random()
        c.fill(c.ellipse(px + 1.2, py + 1.6, size + 0.8, size * 0.75 + 0.6, turn, 0.2, _, margin=2), "#7a3510", 0.75, ring)
        c.fill(c.ellipse(px, py, size, size * 0.72, turn, 0.2, _, margin=2), mix("#f0a53c", "#ffdf8c", crumbs.random()), 0.95, ring)
    c.speckle(ring, 40, (1.0, 2.4), ["#55822f", "#9a3d1c", "#fff2c6"], 106, depth=8)
    gloss(c, [("92,190 122,132 176,96", 9), ("330,330 314,346 296,356", 6)], ring, "#fff6d4", 0.55)
    return c


def opaque(picture: NDArray[np.uint8], background: Callable[[Array, Array], Array] | Colour) -> NDArray[np.uint8]:
    """The picture over a background colour, or over a function of (x, y) in pixels that gives (H, W, 3): uint8 (H, W, 3)."""
    h, w = picture.shape[:2]
    x, y = (np.arange(w) + 0.5)[None, :], (np.arange(h) + 0.5)[:, None]
    behind = background(x, y) if callable(background) else np.broadcast_to(rgb(background), (h, w, 3))
    a = picture[..., 3:] / 255
    return nearest((picture[..., :3] / 255 * a + behind * (1 - a)) * 255).astype(np.uint8)


def egg() -> NDArray[np.uint8]:
    """Fried egg on a plain teal ground, no alpha: the border colour has to be removed."""
    c = Canvas(448, 448)
    white = c.blob("70,214 92,132 160,118 214,70 290,84 330,136 388,176 384,254 340,300 322,364 250,382 186,350 120,344 76,288")
    c.fill(white.grow(2.5), "#b4692c")
    c.fill(white, "#fbf3e2")
    c.soft(white.ring(10), "#d98c3e", 3, 0.85, white)
    c.mottle(white, "#e6d2b0", 0.35, 50, 111, 2)
    c.shade(white, 26, light="#ffffff", dark="#a0622c", lit=1.3, dim=0.7)
    c.soft(c.ellipse(238, 236, 80, 72), "#b88a4e", 7, 0.55, white)
    yolk = c.ellipse(230, 226, 72, 66, -12, 0.03, 4)
    c.fill(yolk, "#f9a91f")
    c.shade(yolk, 60, light="#fff0a0", dark="#b03a10", lit=1.5, dim=0.8)
    gloss(c, [("182,222 190,192 220,174", 13), ("240,172 250,173 258,177", 7)], yolk, "#fffbe6", 0.95)
    c.speckle(white, 46, (0.9, 2.4), [CHAR, "#5c3318", "#5f8a34"], 112, depth=12)
    return opaque(c.finish(), "#4f8f8b")


def carrot() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A carrot on a wooden board, opaque, and its mask as a second picture: uint8 (H, W, 3) and (H, W)."""
    c = Canvas()
    root = c.blob("150,178 176,148 216,150 270,204 334,288 398,376 452,448 444,456 372,416 284,346 204,276 152,218")
    fronds = [
        ("180,180 148,136 134,84 150,44", [16, 20, 22, 4]),
        ("172,186 122,150 84,104 44,86", [16, 20, 22, 4]),
        ("166,192 116,184 70,190 34,222", [14, 17, 18, 4]),
        ("186,172 186,130 206,84 240,60", [14, 17, 18, 4]),
    ]
    leaves = [c.stroke(line, widths) for line, widths in fronds]
    whole = root
    for leaf in leaves:
        whole = whole | leaf
    outline(c, whole, 5)
    for k, leaf in enumerate(leaves):
        c.fill(leaf.grow(4), INK, within=whole)
        c.fill(leaf, ("#5f9a38", "#76ad42", "#4f8a34", "#6aa23c")[k])
        c.shade(leaf, 11, light="#e9f7a0", dark="#1e4420", lit=1.3, dim=0.9)
        vein = spline(fronds[k][0], closed=False)
        c.soft(c.stroke([tuple(q) for q in vein[6:-8:8]], [3, 2, 1]), "#d6ec90", 0.5, 0.8, leaf)
    c.fill(root.grow(4), INK, within=whole)
    c.fill(root, "#ef7d22")
    c.mottle(root, "#ffae4a", 0.6, 36, 121, 2)
    c.shade(root, 42, light="#ffe0a0", dark="#7a1c10", lit=1.2, dim=0.85)
    for x, y, s in (
        (196, 190, 26),
        (240, 206, 20),
        (230, 268, 24),
        (292, 262, 22),
        (296, 330, 18),
        (352, 326, 20),
        (372, 390, 14),
        (410, 404, 12),
    ):
        c.soft(c.stroke([(x - s * 0.5, y + s * 0.4), (x, y + 2), (x + s * 0.5, y - s * 0.4)], [1, 3.6, 1]), "#a8430f", 0.6, 0.8, root)
    gloss(c, [("176,170 214,178 262,226", 9), ("280,246 298,270 312,290", 7)], root, "#fff0c8", 0.75)
    picture = c.finish()

    board = Canvas()
    wood = board.path("-9,-9 521,-9 521,521 -9,521")
    x, y = wood.xy()
    plank = np.floor((y + 18) / 110) + 0 * x
    grain = wood.noise(9, 124, 2, 14) + 0.5 * np.sin((y + 9 * wood.noise(60, 125, 2, 4)) / 5.2)
    board.fill(wood, mix("#a8703e", "#c08a52", (plank % 3) / 2))
    board.wash(wood, "#6e4022", 0.42 * smoothstep(-0.1, 1.3, grain))
    gap = np.abs((y + 18) % 110 - 55) + 0 * x
    board.wash(wood, "#3a1e12", 0.85 * smoothstep(52.6, 54.4, gap))
    shadow = Canvas()
    shadow.soft(whole.like(whole.d), "#1e0f0a", 7, 0.75)
    under = opaque(np.roll(shadow.finish(), (9, 7), axis=(0, 1)), opaque(board.finish(), "#000000") / 255.0)
    mask = np.where(picture[..., 3] >= 128, 255, 0).astype(np.uint8)
    return opaque(picture, under / 255.0), mask
