"""Who sits around the fire: a camper with a raised arm, and a dog. Outlined, in two tones per colour."""

from __future__ import annotations

import numpy as np

from _brush import Canvas, Colour, Shape, mix, smoothstep
from _meat import INK

LINE = 5.0


def part(
    c: Canvas, shape: Shape, colour: Colour, bevel: float = 26, shadow: Colour = "#5a2238", line: float = LINE, deep: float = 0.38
) -> None:
    """One cut-out piece: outline, flat colour, a hard-edged shadow at the lower right, a thin light at the upper left."""
    c.fill(shape.grow(line), INK)
    c.fill(shape, colour)
    n = shape.light(bevel, 0.3)
    c.wash(shape, shadow, deep * smoothstep(-0.13, -0.19, n) * shape.cover())
    c.wash(shape, "#fff2cf", 0.26 * smoothstep(0.10, 0.15, n) * shape.cover())


def camper() -> Canvas:
    c = Canvas()
    skin, coat, trousers, boot, teal, pack = "#f3b98a", "#dd5530", "#4a5a6e", "#7a4527", "#2f857c", "#8a9a4a"
    # behind: bedroll, pack, the raised arm
    part(c, c.stroke("168,262 344,258", [50, 50]), "#e3b45c", 20)
    for x in (204, 306):
        c.fill(c.stroke([(x, 238), (x - 3, 262), (x, 284)], 9), "#6a3c22")
    part(c, c.blob("176,286 202,272 312,272 338,286 346,380 328,402 186,402 168,380"), pack, 24)
    # legs
    for s in (-1, 1):
        leg = c.stroke([(256 + 25 * s, 384), (256 + 28 * s, 420), (256 + 29 * s, 450)], [50, 44, 40])
        part(c, leg, trousers, 20, "#1e2440")
        shoe = c.blob(
            [
                (256 + s * 10, 440),
                (256 + s * 30, 434),
                (256 + s * 50, 442),
                (256 + s * 62, 466),
                (256 + s * 60, 484),
                (256 + s * 30, 487),
                (256 + s * 8, 484),
                (256 + s * 6, 462),
            ]
        )
        part(c, shoe, boot, 16)
        c.fill(c.path("180,477 332,477 332,500 180,500"), "#3b2018", within=shoe)
        c.fill(c.stroke([(256 + s * 14, 452), (256 + s * 44, 454)], 5), "#f0d9a4", within=shoe)
    # arms
    low = c.stroke("202,284 160,322 146,366", [50, 46, 40])
    part(c, c.ellipse(143, 388, 21, 22), skin, 16)
    part(c, low, coat, 20)
    c.fill(c.stroke("123,360 146,369 168,366", 9), "#f6dca4", within=low)
    hand = c.ellipse(398, 120, 24, 25, 20)
    fingers = [c.stroke([(398, 118), tip], [15, 14]) for tip in ((380, 90), (396, 82), (413, 85), (425, 97), (375, 120))]
    palm = hand
    for finger in fingers:
        palm = palm | finger
    part(c, palm, skin, 16)
    for finger in fingers[:4]:
        c.fill(finger.ring(2.4), INK, 0.30, within=finger & palm.grow(-1) - hand.grow(-4))
    high = c.stroke("306,288 352,250 376,196 390,150", [52, 48, 44, 40])
    part(c, high, coat, 20)
    c.fill(c.stroke("369,156 389,165 410,164", 9), "#f6dca4", within=high)
    # body
    body = c.blob("196,286 220,258 256,252 292,258 316,286 326,350 322,398 322,398 256,408 190,398 190,398 186,350")
    part(c, body, coat, 30)
    x, y = body.xy()
    check = 0.5 * (smoothstep(0.55, 0.7, np.cos((x - 256) / 40 * 2 * np.pi)) + smoothstep(0.55, 0.7, np.cos((y - 300) / 40 * 2 * np.pi)))
    c.wash(body, "#8c2320", 0.85 * check * body.cover())
    c.fill(c.stroke("256,262 257,330 256,408", 3.4), INK, 0.8, body)
    for by in (312, 346, 380):
        c.fill(c.ellipse(266, by, 5, 5), INK, within=body)
        c.fill(c.ellipse(265.5, by - 0.5, 3.4, 3.4), "#f3cf83", within=body)
    belt = body.like(np.maximum(body.d, np.abs(y - 396 + 0 * x) - 40)) - c.path("100,0 420,0 420,384 100,384")
    c.fill(belt, "#b4462a", 0.6)
    for s in (-1, 1):  # straps
        strap = c.stroke([(256 + s * 42, 262), (256 + s * 50, 310), (256 + s * 58, 364)], 16)
        c.fill(strap.grow(3), INK, within=body)
        c.fill(strap, "#6b7a38", within=body)
        c.fill(
            c.path([(256 + s * 50 - 11, 318), (256 + s * 50 + 12, 318), (256 + s * 50 + 12, 332), (256 + s * 50 - 11, 332)]),
            "#e3b45c",
            within=strap.grow(2),
        )
    # scarf
    part(c, c.blob("282,262 312,268 322,300 326,338 304,344 294,312 278,284"), "#f2c14e", 12)
    part(
        c,
        c.blob("190,246 222,258 256,264 294,258 324,246 326,270 296,290 256,296 216,290 186,270"),
        "#f2c14e",
        14,
    )
    # head
    hair = c.blob("160,180 168,118 216,92 300,92 346,118 354,180 350,226 330,246 318,206 196,206 182,246 164,226")
    part(c, hair, "#6b3a24", 24)
    for s in (-1, 1):
        part(c, c.ellipse(256 + s * 86, 186, 15, 19), skin, 12)
    face = c.blob("176,176 182,130 256,112 330,130 336,176 326,226 290,254 256,258 222,254 186,226")
    part(c, face, skin, 40, "#b0503c", deep=0.3)
    for s in (-1, 1):
        c.soft(c.ellipse(256 + s * 54, 212, 17, 11), "#ef6f4e", 3, 0.65, face)
        eye = c.ellipse(256 + s * 33, 186, 10, 14)
        c.fill(eye, "#2a1518")
        c.fill(c.ellipse(253 + s * 33, 180, 3.8, 5), "#fffaf0")
        c.fill(c.ellipse(259 + s * 33, 192, 2, 2.4), "#fffaf0", 0.8)
        c.fill(c.stroke([(256 + s * 46, 162), (256 + s * 34, 157), (256 + s * 22, 161)], [3, 5.5, 3]), "#5a2e1c")
    c.fill(c.stroke("249,206 256,211 263,206", [3, 6, 3]), "#d97f58")
    mouth = c.blob("230,220 230,220 256,226 282,220 282,220 274,242 256,248 238,242")
    c.fill(mouth.grow(2.6), INK)
    c.fill(mouth, "#8c2430")
    c.fill(c.ellipse(256, 246, 14, 8), "#f07f76", within=mouth)
    c.fill(c.path("232,218 280,218 278,228 234,228"), "#fff8ec", within=mouth)
    fringe = c.blob(
        "178,160 172,130 210,110 300,110 340,130 334,162 334,162 316,142 296,152 272,140 248,154 224,140 202,156 190,142 178,160"
    )
    part(c, fringe, "#6b3a24", 12, line=3.5)
    # hat
    hat = c.blob("166,118 170,82 206,52 256,44 306,52 342,82 346,118 256,104")
    part(c, c.ellipse(256, 36, 24, 21, 0, 0.08, 5), "#f6e6c6", 16)
    part(c, hat, teal, 40, "#123048")
    for k in range(-3, 4):
        c.fill(c.stroke([(256 + k * 26, 108), (256 + k * 23, 70), (256 + k * 11, 46)], [3.2, 3, 1.5]), "#1d5a58", 0.55, hat)
    brim = c.blob("158,110 166,98 256,82 346,98 354,110 352,134 342,142 256,126 170,142 160,134")
    part(c, brim, mix(teal, "#8fd0b4", 0.45), 14, "#123048")
    for k in range(-6, 7):
        c.fill(c.stroke([(256 + k * 14.5, 90 + 0.35 * k * k), (256 + k * 14.8, 130 + 0.33 * k * k)], 2.6), "#2a6e68", 0.6, brim)
    return c


def camp_dog() -> Canvas:
    c = Canvas()
    fur, dark, cream = "#e0913f", "#b5652c", "#fbe8c6"
    # tail and far legs
    tail = c.stroke("398,262 446,236 464,186 438,150 404,158", [34, 46, 48, 42, 20])
    part(c, tail, fur, 20)
    c.fill(c.blob("452,120 420,140 380,150 390,186 424,172 448,186 480,170"), cream, 0.95, tail)
    for x in (236, 346):
        part(c, c.stroke([(x, 330), (x, 390), (x - 4, 434)], [52, 38, 36]) | c.ellipse(x - 10, 444, 26, 17), dark, 14)
    # body
    body = c.blob("158,262 200,226 280,216 370,222 420,256 432,312 404,358 350,360 290,352 230,374 172,356 148,310")
    part(c, body, fur, 60)
    belly = c.blob("130,240 190,262 206,320 250,356 320,350 380,362 380,400 130,400")
    c.fill(belly, cream, within=body)
    c.wash(body, "#b98a6a", 0.45 * smoothstep(-0.13, -0.19, body.light(60, 0.3)) * np.clip(0.5 - body.on(belly) * 2, 0, 1) * body.cover())
    # near legs
    thigh = c.blob("340,276 388,256 430,286 434,340 416,378 416,420 422,446 404,462 362,462 352,446 374,430 372,396 340,360 326,316")
    part(c, thigh, fur, 34)
    c.fill(c.path("340,424 440,424 440,470 340,470"), cream, within=thigh)
    front = c.stroke("196,320 192,380 188,440", [64, 46, 42]) | c.ellipse(178, 446, 32, 19)
    part(c, front, fur, 20)
    c.fill(c.blob("130,400 220,404 240,470 130,480"), cream, within=front)
    c.fill(c.blob("150,280 176,290 178,350 160,400 140,330"), cream, 1.0, front)
    for px, py in ((164, 452), (178, 454), (372, 452), (388, 454)):
        c.fill(c.stroke([(px, py - 6), (px - 1, py + 8)], [2, 3.4]), INK, 0.8, front | thigh)
    # bandana
    knot = c.blob("254,216 284,200 300,214 284,228 300,248 278,254 256,234")
    part(c, knot, "#cf3f2c", 10)
    scarf = c.blob("118,236 170,252 226,238 262,210 272,234 250,264 216,286 188,340 188,340 150,296 120,262")
    part(c, scarf, "#cf3f2c", 20)
    for dx, dy in ((146, 262), (172, 276), (200, 262), (186, 304), (228, 252), (164, 296), (250, 234)):
        c.fill(c.ellipse(dx, dy, 4.6, 4.6), "#fbe8c6", within=scarf)
    # head
    for ear, inner in (
        ("196,110 214,52 238,26 254,70 256,130 230,160", "216,108 226,70 237,52 244,84 242,124"),
        ("86,120 84,66 94,30 122,54 152,96 130,140", "100,106 97,72 102,56 116,72 130,100"),
    ):
        part(c, c.blob(ear), fur, 18)
        c.fill(c.blob(inner), "#8c4230", 0.9)
    head = c.blob("66,188 80,134 122,96 180,88 236,108 264,158 270,196 252,232 206,254 150,256 96,240")
    part(c, head, fur, 54)
    cheek = c.blob("58,196 80,176 112,178 134,196 160,190 206,188 236,204 262,216 250,240 206,262 150,264 86,246")
    c.fill(cheek, cream, within=head)
    c.wash(head, "#c9906a", 0.5 * smoothstep(-0.15, -0.21, head.light(54, 0.3)) * np.clip(0.5 - head.on(cheek) * 2, 0, 1) * head.cover())
    snout = c.ellipse(122, 210, 50, 38, -6, 0.03, 2)
    c.fill(snout, "#fff4dc", within=head.grow(1))
    for ex in (92, 180):
        c.fill(c.ellipse(ex, 160, 12, 14), "#2a1518")
        c.fill(c.ellipse(ex - 3.5, 154, 4.4, 5), "#fffaf0")
        c.fill(c.ellipse(ex + 4, 166, 2.2, 2.2), "#fffaf0", 0.8)
        c.fill(c.ellipse(ex + (2 if ex < 100 else 4), 130, 10, 6.5, -14 if ex < 100 else 10), cream)
    nose = c.blob("100,186 120,180 142,186 138,202 121,210 104,202")
    c.fill(nose, "#2a1518")
    c.fill(c.ellipse(113, 188, 6, 3), "#a88a86", 0.9)
    tongue = c.blob("108,228 122,226 138,228 140,252 124,266 108,252")
    part(c, tongue, "#f0716a", 10, line=3)
    c.fill(c.stroke("123,232 124,252", [2, 2.4]), "#b83c48", 0.8, tongue)
    c.fill(c.stroke("121,206 121,220 108,231 90,226", [4, 4, 4, 3]), INK)
    c.fill(c.stroke("121,220 136,231 156,225", [4, 4, 3]), INK)
    c.soft(c.ellipse(208, 204, 16, 10), "#ef7f52", 3, 0.6, head)
    return c
