"""Pictures and masks: sent once, known by their content from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import File, Form, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import AfterValidator, WithJsonSchema

from ....contract.errors import TooLargeError
from .. import models, pictures, views
from ..service import Service
from . import Serves, router

routes = router("pictures")
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}, "image/webp": {}}, "description": "The picture."}}
_FOREVER = "private, max-age=31536000, immutable"


def _known(width: int) -> int:
    if width not in pictures.WIDTHS:
        raise ValueError(f"Input should be one of {', '.join(map(str, pictures.WIDTHS))}")
    return width


Width = Annotated[int, AfterValidator(_known), WithJsonSchema({"enum": list(pictures.WIDTHS), "type": "integer"})]


@routes.post("/images", status_code=201, responses={200: {"model": models.ImageOut, "description": "It was there already."}})
async def add_image(
    service: Serves, response: Response, file: Annotated[UploadFile, File(description="PNG, JPEG or WebP.")]
) -> models.ImageOut:
    """Send a picture. Its EXIF turn is applied, its metadata dropped."""
    async with service.decoding(await _need(service, file)):
        kept = await run_in_threadpool(_keep_image, service, file.file)
    response.status_code = 201 if kept.fresh else 200
    response.headers["Location"] = f"{views.V1}/images/{kept.id}"
    return views.image(kept)


@routes.get("/images/{id}", response_class=FileResponse, responses=_PNG)
async def get_image(service: Serves, request: Request, id: models.Sha, w: Width | None = None) -> Response:
    """The picture as it is kept (PNG), or a thumbnail of it (WebP) no wider than `w`."""
    known = service.vault.meta("image", id)
    if w is None:
        return picture(request, service.vault.path("image", id), "image/png", id)
    async with service.decoding(known["width"] * known["height"] * pictures.PER_PIXEL):
        path = await run_in_threadpool(pictures.thumbnail, service.vault, id, w)
    return picture(request, path, "image/webp", f"{id}-{w}")


@routes.post("/masks", status_code=201, responses={200: {"model": models.MaskOut, "description": "It was there already."}})
async def add_mask(
    service: Serves,
    response: Response,
    file: Annotated[UploadFile, File(description="Its alpha if it has one, else its brightness; 128 and more is selected.")],
    image_id: Annotated[models.Sha, Form(description="The picture that it belongs to, of the same size.")],
) -> models.MaskOut:
    """Send a mask for a picture: one object each. Soft edges are kept."""
    known = service.vault.meta("image", image_id)
    async with service.decoding(await _need(service, file)):
        kept = await run_in_threadpool(_keep_mask, service, file.file, image_id, (known["height"], known["width"]))
    response.status_code = 201 if kept.fresh else 200
    response.headers["Location"] = f"{views.V1}/masks/{kept.id}"
    return views.mask(kept, image_id)


@routes.get("/masks/{id}", response_class=FileResponse, responses=_PNG)
async def get_mask(service: Serves, request: Request, id: models.Sha) -> Response:
    """The mask as it is kept: a grey PNG."""
    service.vault.meta("mask", id)
    return picture(request, service.vault.path("mask", id), "image/png", id)


def bytes_of(service: Service, file: BinaryIO) -> bytes:
    """What was uploaded; it lies on the disk until its turn has come. Raises TooLargeError."""
    data = file.read(service.limits.max_body + 1)
    if len(data) > service.limits.max_body:
        raise TooLargeError(f"The file is larger than {service.limits.max_body >> 20} MiB.", "Make the picture smaller first.")
    return data


def picture(request: Request, path: Path, kind: str, tag: str) -> Response:
    """A picture of our own making: shown in place, and never asked for twice."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": _FOREVER}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=kind, headers=headers)


async def _need(service: Service, file: UploadFile) -> int:
    """Bytes of memory that an uploaded picture takes."""
    head = await file.read(16)
    await file.seek(0)
    return pictures.most(head, service.limits)


def _keep_image(service: Service, file: BinaryIO) -> pictures.Kept:
    return pictures.keep_image(service.vault, *pictures.decode(bytes_of(service, file), service.limits))


def _keep_mask(service: Service, file: BinaryIO, image: str, size: tuple[int, int]) -> pictures.Kept:
    return pictures.keep_mask(service.vault, pictures.mask_of(bytes_of(service, file), size, service.limits), image)
