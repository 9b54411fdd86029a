"""A photo-like scene without alpha: mug, burger and tomato on a table at dusk, with a mask each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from _brush import Array, Canvas, Shape, mix, nearest, pts, rgb, smoothstep

WIDTH, HEIGHT, HORIZON = 720, 480, 236


def _noise(u: Array, v: Array, seed: int) -> Array:
    """Value noise in -1..1 at any coordinates; one feature per unit, repeating every 256."""
    grid = np.random.default_rng([seed, 8]).random((256, 256)) * 2 - 1
    i, j = np.floor(v).astype(int), np.floor(u).astype(int)
    fv, fu = smoothstep(0, 1, v - i), smoothstep(0, 1, u - j)
    top = grid[i % 256, j % 256] * (1 - fu) + grid[i % 256, (j + 1) % 256] * fu
    low = grid[(i + 1) % 256, j % 256] * (1 - fu) + grid[(i + 1) % 256, (j + 1) % 256] * fu
    return top * (1 - fv) + low * fv


def _backdrop() -> Array:
    """Forest at dusk far out of focus, lamps as discs, and the table top that comes into focus towards the viewer: float64 (H, W, 3)."""
    c = Canvas(WIDTH, HEIGHT)
    all_of_it = c.path([(-20, -20), (WIDTH + 20, -20), (WIDTH + 20, HEIGHT + 20), (-20, HEIGHT + 20)])
    x, y = all_of_it.xy()
    c.fill(all_of_it, mix("#1c3440", "#a8693f", np.clip(y / 260, 0, 1) ** 1.6 + 0 * x))
    c.wash(all_of_it, "#ffa54a", 0.75 * np.exp(-(((x - 560) / 150) ** 2 + ((y - 190) / 95) ** 2)))
    for k, (tx, w) in enumerate(((30, 46), (112, 30), (196, 58), (318, 34), (424, 52), (508, 26), (660, 60), (712, 30))):
        c.soft(
            c.stroke([(tx, -20), (tx + 6, 120), (tx - 4, 290)], [w * 0.8, w, w * 1.2]), ("#132226", "#1d2a28")[k % 2], 9 + 2 * (k % 3), 0.78
        )
    for bx, by, r in (
        (40, 50, 70),
        (170, 20, 80),
        (330, 30, 84),
        (470, 10, 66),
        (640, 40, 90),
        (250, 210, 70),
        (90, 220, 60),
        (420, 226, 60),
    ):
        c.soft(c.ellipse(bx, by, r, r * 0.7, 0, 0.2, bx), "#20362a", 14, 0.62)
    c.soft(c.blob("524,250 518,196 546,166 560,110 584,168 606,200 598,250"), "#ff8a2c", 13, 0.95)
    c.soft(c.blob("542,250 540,212 560,166 580,212 580,250"), "#ffe79c", 9, 0.95)
    lamps = [
        (70, 96, 15, 0.5),
        (128, 60, 19, 0.55),
        (196, 88, 16, 0.5),
        (262, 56, 20, 0.6),
        (330, 84, 17, 0.5),
        (398, 52, 20, 0.6),
        (462, 80, 16, 0.5),
        (530, 46, 19, 0.55),
        (600, 74, 17, 0.5),
        (668, 44, 20, 0.55),
    ]
    lamps += [
        (300, 170, 11, 0.35),
        (352, 196, 14, 0.3),
        (660, 150, 12, 0.35),
        (40, 178, 12, 0.3),
        (480, 172, 12, 0.4),
        (632, 206, 15, 0.35),
    ]
    for lx, ly, r, o in lamps:
        disc = c.ellipse(lx, ly, r, r)
        c.soft(disc.grow(8), "#ff9c3c", 6, o * 0.35)
        c.soft(disc, "#ffcf7c", 1.4, o)
        c.soft(disc.ring(2.2), "#fff0c4", 1.0, o * 0.6)

    table = all_of_it.like(HORIZON - y + 0 * x)
    deep = np.maximum(y - 92, 1.0)  # the planks run towards a vanishing point above the horizon
    across, along = (x - 330) / deep * 3.1, 900 / deep + 0 * x
    plank = np.floor(across)
    tone = _noise(plank * 7.3, 0 * plank + 3.5, 301)
    grain = _noise(across * 26, along * 0.9 + plank * 17, 302) + 0.6 * _noise(across * 60, along * 1.6 + plank * 5, 303)
    c.fill(table, mix("#80512f", "#b07c48", 0.5 + 0.5 * tone))
    c.wash(table, "#3c2114", 0.5 * smoothstep(-0.1, 1.2, grain) * table.cover())
    c.wash(table, "#d9a266", 0.28 * smoothstep(0.1, 1.2, -grain) * table.cover())
    gap = np.minimum(across - plank, 1 - (across - plank)) * deep / 3.1
    c.wash(table, "#1d0f0a", 0.85 * smoothstep(2.0, 0.4, gap) * table.cover())
    far = smoothstep(HORIZON + 120, HORIZON, y) * table.cover()
    c.wash(table, "#c98248", 0.45 * far)
    c.wash(table, "#ffb45c", 0.5 * np.exp(-(((x - 560) / 130) ** 2 + ((y - 240) / 60) ** 2)) * table.cover())
    picture = c.rgb
    dim = smoothstep(HORIZON + 150.0, HORIZON - 10.0, y)[..., None]
    return picture * (1 - dim) + ndimage.gaussian_filter(picture, (9, 9, 0)) * dim


def _mug() -> Canvas:
    c = Canvas(WIDTH, HEIGHT)
    handle = c.stroke("92,246 52,250 42,296 58,342 94,346", [19, 21, 22, 21, 19])
    c.fill(handle, "#2c6a80")
    c.shade(handle, 11, light="#e8fbff", dark="#0a1c2a", lit=1.7, dim=0.95)
    body = c.blob(
        "84,214 84,214 86,290 92,366 100,384 130,396 160,398 190,396 220,384 228,366 234,290 236,214 236,214 200,228 160,232 120,228"
    )
    x, y = body.xy()
    u = np.clip((x - 160) / 76, -1, 1) + 0 * y
    lit = np.clip(-0.55 * u + 0.72 * np.sqrt(1 - u**2), 0, 1)
    c.fill(body, mix("#0f2f40", "#3f8ca2", lit**1.3))
    c.wash(
        body,
        "#dff6ff",
        (0.75 * np.exp(-(((u + 0.52) / 0.10) ** 2)) + 0.18 * np.exp(-(((u + 0.25) / 0.06) ** 2)))
        * smoothstep(214, 250, y)
        * smoothstep(392, 340, y)
        * body.cover(),
    )
    c.wash(body, "#0c2430", 0.5 * smoothstep(0.55, 0.9, u) * body.cover())
    c.wash(body, "#ff9a45", 0.55 * np.exp(-(((u - 0.93) / 0.035) ** 2)) * body.cover())
    c.wash(body, "#081820", 0.5 * smoothstep(372, 398, y + 12 * u**2) * body.cover())
    c.speckle(body, 210, (0.5, 1.7), ["#d7e8e6", "#a9c8cc"], 311, depth=3, opacity=0.75)
    rim = c.ellipse(160, 214, 78, 19)
    c.fill(rim, "#e9edea")
    c.wash(rim, "#56707c", 0.6 * smoothstep(-60, 78, rim.xy()[0] - 160 + 0 * rim.d) * rim.cover())
    inside = c.ellipse(160, 214.5, 73.5, 15.8)
    c.fill(inside, mix("#d5dedb", "#1d3a46", np.clip((inside.xy()[0] - 90) / 110, 0, 1)[::-1] + 0 * inside.d))
    coffee = c.ellipse(160, 221, 66, 10.5)
    c.fill(coffee, "#2a130b", within=inside)
    c.soft(c.ellipse(140, 220, 30, 3.4, -2), "#b06a34", 1.6, 0.7, coffee & inside)
    return c


def _burger() -> Canvas:
    c = Canvas(WIDTH, HEIGHT)

    def layer(points: str, colour: str, spots: tuple[str, str], bevel: float, seed: int, cell: float = 18) -> Shape:
        s = c.blob(points)
        c.soft(c.path([(p[0] + 1, p[1] + 7) for p in pts(points)]), "#1d0a06", 5, 0.55, core)
        c.fill(s, colour)
        c.mottle(s, spots[0], 0.55, cell, seed, 3)
        c.mottle(s, spots[1], 0.45, cell * 0.7, seed + 1, 3)
        c.shade(s, bevel, light="#fff0cf", dark="#220a0a", lit=1.0, dim=0.95)
        return s

    core = c.path("304,290 500,290 496,398 308,398")  # what shows between the layers
    c.fill(core, "#2a100a")
    bottom = layer(
        "306,368 400,378 498,366 500,394 478,413 400,419 328,414 304,394",
        "#c98842",
        ("#e8b46a", "#9a5a26"),
        26,
        321,
    )
    c.soft(c.blob("304,360 500,360 500,386 400,392 304,386"), "#3a170b", 5, 0.6, bottom)
    patty = layer(
        "296,352 310,338 400,344 492,336 508,352 506,370 488,384 440,388 400,390 350,388 312,384 296,370",
        "#5b2a18",
        ("#8f4a26", "#2b100a"),
        16,
        323,
        9,
    )
    c.speckle(patty, 150, (0.8, 2.6), ["#b0683a", "#1f0b07", "#7d3c1e"], 324, depth=2, opacity=0.7)
    cheese = c.blob("300,334 400,344 504,332 504,332 500,346 468,350 446,378 446,378 424,352 380,352 352,368 330,350 302,346")
    c.soft(cheese.grow(1.5), "#200a06", 3.5, 0.6, patty)
    c.fill(cheese, "#f4a92a")
    c.shade(cheese, 7, light="#fff2b0", dark="#8a3a08", lit=1.6, dim=0.9)
    tomato = layer("308,320 400,330 494,318 498,334 400,346 304,334", "#c8321f", ("#f0603a", "#8e1712"), 8, 325)
    gloss = c.stroke("322,333 360,337 398,339", [1, 3, 1])
    c.soft(gloss, "#ffe6cf", 1, 0.7, tomato)
    rng = np.random.default_rng(326)
    edge = [(288 + 13.2 * k, 324 + 9 * rng.random() + (9 if k % 2 else -2) - 0.0016 * (k - 8.5) ** 2) for k in range(18)]
    lettuce = c.blob([(290, 306), (400, 316), (512, 302), *reversed(edge)])
    c.soft(lettuce.grow(1), "#1c0a06", 4, 0.5, core)
    c.fill(lettuce, "#6da336")
    c.mottle(lettuce, "#c3de6e", 0.7, 12, 327, 2, 0.6)
    c.mottle(lettuce, "#2f6422", 0.6, 10, 328, 2, 0.5)
    c.shade(lettuce, 9, light="#f4ffbe", dark="#143410", lit=1.4, dim=0.9)
    top = c.blob("294,304 296,262 324,220 370,200 430,199 478,218 506,260 510,302 488,316 400,324 316,318")
    c.soft(c.blob("294,300 400,314 510,298 506,326 400,334 298,328"), "#1a0905", 4, 0.6, lettuce)
    x, y = top.xy()
    c.fill(top, mix("#e0a252", "#9c5220", smoothstep(330, 205, y + 0.0009 * (x - 400) ** 2)))
    c.wash(top, "#f6c780", 0.7 * smoothstep(288, 318, y) * top.cover())
    c.mottle(top, "#7d3a14", 0.4, 40, 329, 3)
    c.mottle(top, "#f0b668", 0.35, 16, 330, 3)
    c.shade(top, 74, light="#fff0cc", dark="#260c0a", lit=1.25, dim=0.9)
    c.soft(c.ellipse(352, 232, 34, 14, -30), "#fff6e0", 9, 0.62, top)
    for _ in range(46):
        a, r = rng.random() * 2 * np.pi, np.sqrt(rng.random())
        sx, sy = 400 + 92 * r * np.cos(a), 246 + 38 * r * np.sin(a)
        turn = 180 * rng.random()
        c.soft(c.ellipse(sx + 1.4, sy + 1.8, 4.4, 2.8, turn, margin=6), "#3c1a0a", 0.9, 0.7, top)
        seed = c.ellipse(sx, sy, 4.2, 2.5, turn, margin=3)
        c.fill(seed, mix("#f2d9a0", "#fff3d2", rng.random()), within=top)
        c.fill(c.ellipse(sx + 0.7, sy + 0.7, 2.6, 1.3, turn, margin=3), "#d9b06a", 0.6, seed)
    c.wash(
        top, "#ff9a45", 0.4 * smoothstep(-6, 0, top.d) * smoothstep(430, 505, x) * smoothstep(320, 280, y) * top.cover()
    )  # the fire behind
    return c


def _tomato() -> Canvas:
    c = Canvas(WIDTH, HEIGHT)
    ball = c.blob("612,312 650,312 680,340 684,376 664,410 620,420 576,414 548,384 546,346 572,314")
    x, y = ball.xy()
    u, v = (x - 615) / 70, (y - 366) / 56
    w = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    lit = np.clip(-0.5 * u - 0.55 * v + 0.66 * w, 0, 1)
    c.fill(ball, mix("#5e0b0a", "#e8432a", lit**0.9))
    c.mottle(ball, "#ff7a3c", 0.25, 30, 341, 2)
    for k in range(7):  # faint lobes
        c.soft(
            c.stroke([(606 + 4 * k - 10, 324), (552 + 21 * k, 372), (572 + 15 * k, 416)], [2, 9, 2]),
            "#7a1010" if k % 2 else "#ff6a44",
            5,
            0.22,
            ball,
        )
    c.wash(ball, "#ff9a45", 0.7 * smoothstep(-7, 0, ball.d) * smoothstep(0.2, 0.9, u - 0.35 * v) * ball.cover())
    c.wash(ball, "#2a0606", 0.55 * smoothstep(0.55, 1.05, v) * ball.cover())
    c.soft(c.ellipse(578, 343, 13, 8, -42), "#fffaf0", 2.2, 0.9, ball)
    c.soft(c.ellipse(596, 332, 5, 3.4, -30), "#fffaf0", 1.4, 0.7, ball)
    for tip in ((566, 330), (588, 350), (626, 352), (662, 330), (640, 306), (596, 302)):
        leaf = c.stroke([(612, 322), ((612 + tip[0]) / 2, (322 + tip[1]) / 2 - 5), tip], [11, 9, 1.5])
        c.soft(
            c.stroke([(615, 327), ((618 + tip[0]) / 2, (330 + tip[1]) / 2 - 3), (tip[0] + 3, tip[1] + 6)], [9, 8, 2]),
            "#2e0606",
            2.5,
            0.6,
            ball,
        )
        c.fill(leaf, "#4d7f2c")
        c.shade(leaf, 5, light="#d9f08a", dark="#13300e", lit=1.6, dim=0.95)
    stem = c.stroke("612,324 614,306 624,292", [9, 7.5, 9])
    c.fill(stem, "#6f9a3a")
    c.shade(stem, 4, light="#e9f7a4", dark="#1d3a12", lit=1.5, dim=0.95)
    return c


def campsite() -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """The scene, uint8 (480, 720, 3), and the masks of mug, burger and tomato, each uint8 (480, 720), 0 or 255."""
    things = [_mug(), _burger(), _tomato()]
    ground = Canvas(WIDTH, HEIGHT)
    ground.rgb, ground.a = _backdrop(), np.ones((HEIGHT * 2, WIDTH * 2))
    for cx, cy, rx, ry in ((168, 390, 92, 22), (408, 412, 122, 22), (622, 412, 84, 18)):
        ground.soft(ground.ellipse(cx + 34, cy + 10, rx * 1.12, ry * 1.2, 4), "#120806", 13, 0.62)
        ground.soft(ground.ellipse(cx - 4, cy - 2, rx * 0.86, ry * 0.72), "#0c0504", 4, 0.8)
    masks = []
    picture = ground.rgb
    for thing in things:
        alpha = ndimage.gaussian_filter(thing.a, 0.9)[..., None]  # a lens never draws a perfectly sharp edge
        solid = np.where(thing.a[..., None] > 0, thing.rgb / np.maximum(thing.a, 1e-9)[..., None], 0)
        i, j = ndimage.distance_transform_edt(thing.a < 0.5, return_distances=False, return_indices=True)
        picture = picture * (1 - alpha) + solid[i, j] * alpha
        small = thing.a.reshape(HEIGHT, 2, WIDTH, 2).mean(axis=(1, 3))
        masks.append(np.where(small >= 0.5, 255, 0).astype(np.uint8))
    picture = ndimage.gaussian_filter(picture, (0.8, 0.8, 0)).reshape(HEIGHT, 2, WIDTH, 2, 3).mean(axis=(1, 3))
    x, y = (np.arange(WIDTH) - WIDTH / 2)[None, :] / WIDTH, (np.arange(HEIGHT) - HEIGHT / 2)[:, None] / HEIGHT
    picture = picture * (1 - 0.75 * smoothstep(0.2, 0.95, x**2 * 1.3 + y**2 * 1.6))[..., None]
    picture = picture * rgb([1.04, 1.0, 0.93]) + 0.012
    grain = np.random.default_rng(351).random((HEIGHT, WIDTH, 4)).sum(axis=2) - 2  # near to a normal distribution
    picture = picture + 0.005 * grain[..., None]
    return np.minimum(nearest(np.clip(picture, 0, 1) * 255 / 6) * 6, 255).astype(np.uint8), masks  # the grain hides the steps of 6
