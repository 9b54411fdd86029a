"""What comes in, checked as far as it can be without decoding a picture, and turned into a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...contract import messages
from ...contract.errors import ConflictError, MaskError, MaskSizeError, OptionError, ProtocolError
from ...contract.names import safe_filename, unique_filenames
from . import models, params, work
from .service import Service
from .states import TERMINAL, Status
from .store import NewJob, Row

_SAME_SIZE = "Make the mask on this very picture."


def job(service: Service, body: models.JobIn, common: dict[str, Any] | None = None) -> NewJob:
    """A job for a picture and its masks. common: parameters that hold where the body says nothing else. Raises an InputError or NotFoundError."""
    settings = {**(common or {}), **params.given(body.params)}
    picture = service.vault.meta("image", body.image_id)
    size = (picture["width"], picture["height"])
    for id in body.mask_ids:
        mask = service.vault.meta("mask", id)
        if (mask["width"], mask["height"]) != size:
            raise MaskSizeError(
                f"The mask {id[:12]}... is {mask['width']}x{mask['height']} pixels, the picture is {size[0]}x{size[1]}.", _SAME_SIZE
            )
        if mask["area"] == 0:
            raise MaskError(f"The mask {id[:12]}... selects nothing.", "Select the object.")
    if not body.mask_ids and not picture["has_alpha"]:
        raise MaskError("The picture has no transparency, and no mask was given.", "Send a mask, or a picture with alpha.")
    check_room(service, max(1, len(body.mask_ids)), size)
    if "back_image" in settings:
        service.vault.meta("image", settings["back_image"])
    if body.names and len(body.names) != max(1, len(body.mask_ids)):
        raise OptionError(f"{len(body.names)} names for {max(1, len(body.mask_ids))} masks.", "Name each mask, or none.")
    names = tuple(unique_filenames(body.names))
    masks = tuple(body.mask_ids)
    return NewJob(
        request_key=params.request_key(body.image_id, masks, names, settings),
        name=safe_filename(body.name),
        image=body.image_id,
        masks=masks,
        names=names,
        params=settings,
        priority=body.priority,
        fresh=body.no_cache,
    )


def check_room(service: Service, masks: int, size: tuple[int, int]) -> None:
    """size: width, height. Raises MaskError for more masks than a job may have."""
    limits = service.limits
    if masks > limits.max_masks or masks * size[0] * size[1] > limits.max_mask_pixels:
        raise MaskError(
            f"{masks} masks of {size[0]}x{size[1]} pixels are too much for one job.",
            f"A job may have {limits.max_masks} masks and {limits.max_mask_pixels // 1_000_000} megapixels of them: send several jobs.",
        )


def again(service: Service, row: Row) -> NewJob:
    """A new job like one that has ended. Raises ConflictError for one that hasn't, NotFoundError where what it was made of is gone."""
    if Status(row["status"]) not in TERMINAL:
        raise ConflictError("This job hasn't ended.", "Wait for its end, or cancel it first.")
    masks = tuple(json.loads(row["masks"]))
    back = json.loads(row["params"]).get("back_image")
    for kind, id in (("image", row["image"]), ("image", back), ("frame", row["frame"]), *(("mask", id) for id in masks)):
        if id is not None:
            service.vault.meta(kind, id)
    return NewJob(
        request_key=row["request_key"],
        kind=row["kind"],
        name=row["name"],
        image=row["image"],
        masks=masks,
        names=tuple(json.loads(row["names"])),
        frame=row["frame"],
        params=json.loads(row["params"]),
        priority=row["priority"],
        fresh=bool(row["fresh"]),
        retry_of=row["id"],
    )


def digest_of(body: models.In) -> str:
    """What an Idempotency-Key stands for: the call's body, after defaults."""
    return params.digest(body.model_dump(mode="json"))


def frame(service: Service, aside: Path, sha: str, name: str, priority: int) -> NewJob:
    """A job for a request in the worker's own form, which lies in the spool and is moved into the vault. Raises ProtocolError or an InputError."""
    message = work.read_message(aside)
    kind = _FRAMED.get(type(message))
    if kind is None:
        raise ProtocolError(f"A {type(message).__name__} is no piece of work.")
    key = params.digest({"frame": sha})
    if isinstance(message, messages.Reconstruct):
        check_room(service, len(message.request.masks), (message.request.image.shape[1], message.request.image.shape[0]))
        key = message.request.content_key()
    service.vault.put("frame", sha, aside, {})
    # What is prepared lies in the worker's memory: a result of earlier says nothing of today's.
    return NewJob(request_key=key, kind=kind, name=safe_filename(name), frame=sha, priority=priority, fresh=kind == "prepare")


_FRAMED: dict[type, str] = {messages.Reconstruct: "reconstruct", messages.Prepare: "prepare", messages.Export: "export"}
