"""The one call that waits: a picture and its masks in, the finished file (or JSON with everything) out. It is a job like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from ....contract.errors import ImageError, OptionError
from .. import instant, models
from . import Serves, router

routes = router("jobs")
Answer = Literal["json", "glb", "ply"]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "mask": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "params": {"type": "string", "description": "Parameters, as JSON."},
                        "answer": {"enum": ["json", "glb", "ply"]},
                    },
                }
            },
            "application/json": {"schema": {"$ref": "#/components/schemas/InstantIn"}},
        },
    }
}
_FILES: dict[int | str, dict[str, Any]] = {
    200: {"model": models.InstantOut, "content": {"model/gltf-binary": {}, "application/octet-stream": {}}, "description": "The result."}
}


@routes.post("/reconstruct", openapi_extra=_BODY, responses=_FILES)
async def reconstruct(
    service: Serves,
    request: Request,
    answer: Annotated[Answer | None, Query(description="glb for forms and json for JSON, if not given.")] = None,
) -> Response:
    """Send a picture and its masks, wait, get the result. A form with files, or JSON in the shape of Roboflow's guide."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=service.limits.max_masks + 1, max_fields=8) as form:
            files, fields = _sorted(form)
            usual: Answer = "glb"
            answer = answer or _answer(fields)  # before there is a job that nobody would wait for
            async with service.decoding(service.limits.memory):
                new = await run_in_threadpool(instant.from_files, service, files, fields)
    elif kind == "application/json":
        usual = "json"
        body = await request.body()
        async with service.decoding(service.limits.memory):
            new = await run_in_threadpool(instant.from_json, service, body)
    else:
        raise OptionError("The body is neither a form nor JSON.", "Send multipart/form-data or application/json.")
    row = await instant.wait(service, request, new.job)
    return await run_in_threadpool(instant.response, service, row, new, answer or usual)


def _sorted(form: FormData) -> tuple[list[BinaryIO], dict[str, str]]:
    """The picture and its masks, in this order, and the other fields. Raises OptionError for what the form can't have."""
    files: dict[str, list[BinaryIO]] = {"image": [], "mask": []}
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in files and isinstance(value, UploadFile):
            if value.size or name == "image":  # a browser sends an empty part for a file that wasn't chosen
                files[name].append(value.file)
        elif name in ("params", "answer") and isinstance(value, str):
            fields[name] = value
        else:
            raise OptionError(
                f"The form has a field {name[:40]!r}.", "It may have the files image and mask, and the texts params and answer."
            )
    if len(files["image"]) != 1:
        raise ImageError(f"The form has {len(files['image'])} pictures.", "Send one file called image.")
    return [*files["image"], *files["mask"]], fields


def _answer(fields: Mapping[str, str]) -> Answer | None:
    given = fields.get("answer")
    if given in (None, "json", "glb", "ply"):
        return given  # type: ignore[return-value]
    raise OptionError(f"There is no answer {given[:40]!r}.", "Choose json, glb or ply.")
