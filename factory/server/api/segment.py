"""Clicks and boxes to masks, for pages. Nothing of it is a job: it is answered at once."""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from typing import Annotated, Literal

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from ....contract.errors import OptionError
from ...segment.desk import LARGE, Desk, Lane
from ...segment.prompt import Found, Point, Prompt
from .. import models, pictures, views
from ..service import Service
from . import Serves, router

routes = router("pictures")
Pixel = Annotated[models.Whole, Field(ge=0, le=16384)]


class PointIn(models.In):
    """x right, y down, in pixels of the stored picture. label: 1, the object is here; 0, it isn't."""

    x: Pixel
    y: Pixel
    label: Literal[0, 1] = 1


class SegmentIn(models.In):
    """Neither points nor a box: the object, where the picture itself shows what it is (transparency, a plain background)."""

    points: list[PointIn] = Field(default=[], max_length=64)
    box: list[Pixel] | None = Field(default=None, min_length=4, max_length=4, description="x0, y0, x1, y1, the ends exclusive.")
    size: Literal["auto", "s", "m", "l"] = Field(default="auto", description="Of the object around a single click, about.")
    engine: str | None = Field(default=None, max_length=80, description="One of `segmenters` of GET /info.")
    session: str | None = Field(
        default=None, max_length=80, description="Of several calls with the same, the latest wins; the others get 409."
    )


class SegmentMask(models.MaskOut):
    """score: 0 to 1. method: how it was found, e.g. alpha, border, grabcut."""

    score: float
    method: str


class SegmentOut(models.Out):
    """The best first; empty where nothing was found."""

    masks: list[SegmentMask]


def desk_of(request: Request) -> Desk:
    found: Desk = request.app.state.desk
    return found


@routes.post("/images/{id}/segment")
async def segment(service: Serves, request: Request, id: models.Sha, body: SegmentIn) -> SegmentOut:
    """Masks for what was clicked. 409: a later click of the same session has come; 429: too many at once."""
    known = service.vault.meta("image", id)
    prompt = _prompt(body, known["width"], known["height"])
    client = request.client.host if request.client else ""
    session = f"{client} {body.session}" if body.session else f"{client} {secrets.token_hex(8)}"
    desk = desk_of(request)
    with service.flight(f"segment {client}", service.limits.max_segments):  # those who wait for their turn count
        pixels = known["width"] * known["height"]
        lane = desk.lane(pixels)
        room = service.decoding(pixels * pictures.PER_PIXEL) if pixels > LARGE else nullcontext()  # one large picture in memory
        async with desk.turn(session, lane, room):
            masks = await run_in_threadpool(_segment, service, desk, id, prompt, body.engine, lane)
    return SegmentOut(masks=masks)


def _prompt(body: SegmentIn, width: int, height: int) -> Prompt:
    if any(point.x >= width or point.y >= height for point in body.points):
        raise OptionError(f"A point lies outside of the picture, which is {width}x{height} pixels.", "Give pixels of the stored picture.")
    box = None
    if body.box is not None:
        x0, y0, x1, y1 = body.box[0], body.box[1], min(body.box[2], width), min(body.box[3], height)
        if x1 - x0 < 2 or y1 - y0 < 2:
            raise OptionError("The box holds nothing of the picture.", "Give x0, y0, x1, y1 with at least two pixels between.")
        box = (x0, y0, x1, y1)
    return Prompt(tuple(Point(p.x, p.y, bool(p.label)) for p in body.points), box, body.size)


def _segment(service: Service, desk: Desk, image: str, prompt: Prompt, engine: str | None, lane: Lane) -> list[SegmentMask]:
    found = desk.predict(engine, image, lambda: pictures.load_image(service.vault, image), prompt, lane)
    return [_kept(service, image, one) for one in found]


def _kept(service: Service, image: str, found: Found) -> SegmentMask:
    mask = views.mask(pictures.keep_mask(service.vault, found.mask, image), image)
    return SegmentMask(**mask.model_dump(), score=found.score, method=found.method)
