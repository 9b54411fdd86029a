"""Behind `POST /reconstruct`: what came becomes a job, its end is waited for, its files become the answer."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from fastapi import Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import ValidationError

from ...contract import compat
from ...contract.errors import ConflictError, ImageError, JobCancelled, NotFoundError, OptionError, Sam3dError, TimeLimitError
from ...contract.scene import Pose
from . import answers, archive, intake, models, pictures
from .params import Parameters, given
from .service import Service
from .states import TERMINAL, Status
from .store import Row

_CHUNK = 3 << 18  # bytes; without a rest by three, so that the pieces in base64 are one
_OURS = ("outputs", "space", "objects")  # what the answer needs to be as it is


@dataclass(frozen=True)
class Instant:
    """A job under way, and what its answer shall hold."""

    job: str
    meshes: bool = True
    scene: bool = True


def from_files(service: Service, files: Sequence[BinaryIO], fields: Mapping[str, str]) -> Instant:
    """files: the picture, then its masks. Raises a Sam3dError."""
    try:
        settings = given(Parameters.model_validate(json.loads(fields["params"]))) if fields.get("params") else {}
    except (ValidationError, ValueError, RecursionError) as problem:
        raise OptionError("`params` is no JSON object of parameters.", "docs/cli.md lists them.", detail=str(problem)) from None
    image, alpha = pictures.decode(files[0].read(), service.limits)
    intake.check_room(service, len(files) - 1, image.shape[1::-1])
    masks = (pictures.mask_of(file.read(), image.shape[:2], service.limits) for file in files[1:])  # one at a time, as below
    return _begin(service, image, alpha, masks, settings)


def from_json(service: Service, text: bytes) -> Instant:
    """To be called for one body at a time: as Python's objects its numbers need many times the room. Raises a Sam3dError."""
    return _from_json(service, _parsed(text))


def _parsed(text: bytes) -> models.InstantIn:
    try:
        return models.InstantIn.model_validate(json.loads(text))
    except ValidationError as problem:
        first = problem.errors()[0]
        raise OptionError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.", "docs/api.md says what this call takes.") from None
    except (ValueError, RecursionError) as problem:
        raise OptionError(f"The body is no JSON: {problem}.", "docs/api.md says what this call takes.") from None


def _from_json(service: Service, body: models.InstantIn) -> Instant:
    switches = {name: getattr(body, name) for name in ("with_mesh_postprocess", "with_texture_baking", "use_distillations")}
    settings = {**compat.parameters(**switches), **given(body.params)}
    limits = service.limits
    image, alpha = pictures.decode(_base64(body.image.value), limits)
    masks: Iterable[np.ndarray] = ()
    if body.mask_input is not None:
        found = compat.mask_input(
            body.mask_input,
            image.shape[:2],
            kind=body.mask_kind,
            most=limits.max_mask_pixels,
            check_file=lambda data: pictures.check_file(data, limits),
        )
        intake.check_room(service, len(found), image.shape[1::-1])
        masks = (mask.view(np.uint8) * np.uint8(255) for mask in found)  # one at a time: together they may be hundreds of megabytes
    return _begin(service, image, alpha, masks, settings, body.output_meshes, body.output_scene)


def _begin(
    service: Service,
    image: np.ndarray,
    alpha: np.ndarray | None,
    masks: Iterable[np.ndarray],
    settings: dict[str, Any],
    meshes: bool = True,
    scene: bool = True,
) -> Instant:
    for name in _OURS:
        if name in settings:
            raise OptionError(f"{name} can't be chosen here.", "Make a job (POST /api/v1/jobs) for that.")
    kept = pictures.keep_image(service.vault, image, alpha)
    ids = [pictures.keep_mask(service.vault, mask, kept.id).id for mask in masks]
    wanted = models.JobIn(image_id=kept.id, mask_ids=ids, params=Parameters(**settings, outputs=["glb", "ply"]))
    new = intake.job(service, wanted)
    row, _ = service.store.add(new, None, service.dispatcher.find(new.request_key))
    return Instant(row["id"], meshes, scene)


def _base64(text: str) -> bytes:
    head, comma, rest = text.partition(",")
    try:
        return base64.b64decode("".join((rest if comma and head.startswith("data:") else text).split()), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("image.value is no base64.", "Send a PNG, JPEG or WebP in base64, or a data URL of it.") from None


async def wait(service: Service, request: Request, job: str) -> Row:
    """Until the job has ended. A caller that goes away takes the job along. Raises the job's error."""
    with service.hub.waiting(job) as changed:
        while True:
            changed.clear()
            row = service.store.job(job)
            if Status(row["status"]) in TERMINAL:
                break
            if service.hub.closing.is_set() or await request.is_disconnected():
                _let_go(service, job)
                raise JobCancelled("Nobody waits for the job any more.", "Send the call again.")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), 1.0)
    if row["status"] == Status.SUCCEEDED:
        return row
    if row["status"] == Status.CANCELED:
        raise JobCancelled("The job was cancelled.", "Send the call again if that was a mistake.")
    problem = Sam3dError.from_json(json.loads(row["error"]))
    raise answers.Refused(problem, 504) if isinstance(problem, TimeLimitError) else problem


def _let_go(service: Service, job: str) -> None:
    try:
        service.store.cancel(job)
    except (ConflictError, NotFoundError):
        pass  # it has ended in this moment


def response(service: Service, row: Row, wanted: Instant, answer: str) -> Response:
    """answer: json, glb or ply. The scene's files; in JSON also those of each object."""
    headers = {"X-Job-Id": row["id"]}
    if answer != "json":
        path, _ = archive.file_of(service, row, "model.glb" if answer == "glb" else "splat.ply")
        kind = "model/gltf-binary" if answer == "glb" else "application/octet-stream"
        return FileResponse(path, media_type=kind, filename=path.name, headers=headers)
    told = json.loads(row["outputs"])
    objects = told["objects"]
    mark, paths = secrets.token_hex(16), list[Path]()

    def encoded(wanted: bool, name: str) -> str | None:
        """What stands for the file until it is sent: together they may have gigabytes."""
        if not wanted or name not in told["files"]:
            return None
        paths.append(archive.file_of(service, row, name)[0])
        return mark

    def of_object(suffix: str, name: str) -> str:
        return {"glb": "model.glb", "ply": "splat.ply"}[suffix] if len(objects) == 1 else f"objects/{name}.{suffix}"

    found = [
        models.InstantObject(
            name=item["name"],
            mesh_glb=encoded(wanted.meshes, of_object("glb", item["name"])),
            gaussian_ply=encoded(True, of_object("ply", item["name"])),
            metadata=models.InstantMetadata(**compat.metadata(Pose(**item["pose"]))),
            pose=models.InstantPose(**item["pose"]),
        )
        for item in objects
    ]
    body = models.InstantOut(
        mesh_glb=encoded(wanted.scene and wanted.meshes, "model.glb"),
        gaussian_ply=encoded(wanted.scene, "splat.ply"),
        objects=found,
        time=row["seconds"] or told["seconds"],  # of a result that was there: what it once took
        engine=told["engine"],
        job_id=row["id"],
    )
    texts = [text.encode() for text in body.model_dump_json().split(mark)]
    size = sum(map(len, texts)) + sum(-(-path.stat().st_size // 3) * 4 for path in paths)
    return StreamingResponse(_between(texts, paths), media_type="application/json", headers={**headers, "Content-Length": str(size)})


def _between(texts: Sequence[bytes], paths: Sequence[Path]) -> Iterator[bytes]:
    """The texts, and between each two the next file in base64."""
    yield texts[0]
    for path, text in zip(paths, texts[1:]):
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield base64.b64encode(chunk)
        yield text
