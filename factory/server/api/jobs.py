"""Jobs: make, look, watch, cancel, retry, delete; and their files."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse

from ....contract.errors import ConflictError, NotFoundError
from ....contract.names import safe_filename
from .. import archive, events, intake, models, views
from ..store import Once, Row
from . import Serves, router

routes = router("jobs")
Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[!-~]{1,200}$", description="The same key and call: the same job.")]
LastId = Annotated[str | None, Header(alias="Last-Event-ID", description="Go on behind this event.")]
_EVENT = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string", "description": "JSON."}},
    "required": ["data"],
}
_SSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}, "description": "Events: status, progress, preview, log, output, done."}
}
_TYPES = {".glb": "model/gltf-binary", ".png": "image/png", ".webp": "image/webp", ".mp4": "video/mp4", ".json": "application/json"}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {} for kind in ("application/octet-stream", *_TYPES.values())}, "description": "The file."}
}
_PREVIEW: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "The picture."}}
_ZIP: dict[int | str, dict[str, Any]] = {200: {"content": {"application/zip": {}}, "description": "An archive."}}


@routes.post("/jobs", status_code=201, responses={200: {"model": models.JobOut, "description": "It was there already."}})
async def add_job(service: Serves, response: Response, body: models.JobIn, key: Key = None) -> models.JobOut:
    """Queue a reconstruction. 200 instead of 201: the same Idempotency-Key came before, or the same result is there (`cached`)."""
    new = await run_in_threadpool(intake.job, service, body)
    done = None if new.fresh else await run_in_threadpool(service.dispatcher.find, new.request_key)
    once = None if key is None else Once(key, intake.digest_of(body))
    row, made = service.store.add(new, once, done)
    return _told(service, response, row, 201 if made and not done else 200)


@routes.get("/jobs")
async def list_jobs(
    service: Serves,
    status: models.Status | None = None,
    batch_id: models.JobId | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[models.JobId | None, Query(description="`next` of the page before.")] = None,
) -> models.JobList:
    """Newest first."""
    rows = service.store.jobs(status=status, batch=batch_id, before=cursor, limit=limit + 1)
    more = rows[limit - 1]["id"] if len(rows) > limit else None
    return models.JobList(jobs=[views.job(service.store, row) for row in rows[:limit]], next=more)


@routes.get("/jobs/{id}")
async def get_job(service: Serves, id: models.JobId) -> models.JobOut:
    """A job's state; asking again and again is as good as watching its events."""
    return views.job(service.store, service.store.job(id))


@routes.delete("/jobs/{id}", status_code=204)
async def delete_job(service: Serves, id: models.JobId) -> None:
    """Forget a job that has ended. Its files go when no other job has them."""
    service.store.delete(id)


@routes.post("/jobs/{id}/cancel", status_code=200, responses={202: {"model": models.JobOut, "description": "It runs, and has been told."}})
async def cancel_job(service: Serves, response: Response, id: models.JobId) -> models.JobOut:
    """200: it waited, and is cancelled. 202: it ends at its next step. 409: it has ended before."""
    over = service.store.cancel(id)
    return _told(service, response, service.store.job(id), 200 if over else 202)


@routes.post("/jobs/{id}/retry", status_code=201)
async def retry_job(service: Serves, response: Response, id: models.JobId) -> models.JobOut:
    """A new job, made of the same things as one that has ended. 409: it hasn't."""
    row, _ = service.store.add(intake.again(service, service.store.job(id)))
    return _told(service, response, row, 201)


@routes.get("/jobs/{id}/events", response_class=StreamingResponse, responses=_SSE)
async def job_events(service: Serves, id: models.JobId, last: LastId = None) -> StreamingResponse:
    """What happens to a job, from its beginning or from Last-Event-ID on, until `done`."""
    service.store.job(id)
    return _stream(service, id, last, 0)


@routes.get("/events", response_class=StreamingResponse, responses=_SSE)
async def all_events(
    service: Serves, last: LastId = None, once: Annotated[bool, Query(description="End where the present is reached.")] = False
) -> StreamingResponse:
    """What happens to all jobs, from now or from Last-Event-ID on."""
    return _stream(service, None, last, service.store.last_event(), once)


@routes.get("/jobs/{id}/preview", response_class=Response, responses=_PREVIEW)
async def get_preview(service: Serves, id: models.JobId) -> Response:
    """The last picture that a running job has sent of its work; 404 where there is none. A `preview` event says that there is a new one."""
    found = service.dispatcher.preview(service.store.job(id)["id"])
    if found is None:
        raise NotFoundError("There is no picture of this job's work.", "It is there while the job runs, with the engine sam3d.")
    return Response(found, media_type="image/png", headers={"Cache-Control": "no-store"})


@routes.get("/jobs/{id}/files/{name:path}", response_class=FileResponse, responses=_FILE)
async def get_file(service: Serves, request: Request, id: models.JobId, name: Annotated[str, Path(max_length=300)]) -> Response:
    """A file of the result, by its name in `outputs`; `meta.json` too. Range and If-None-Match work."""
    path, sha = archive.file_of(service, service.store.job(id), name)
    headers = {"ETag": f'"{sha}"', "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    kind = _TYPES.get(path.suffix, "application/octet-stream")
    return FileResponse(path, media_type=kind, headers=headers, filename=path.name)


@routes.get("/jobs/{id}/archive.zip", response_class=StreamingResponse, responses=_ZIP)
async def job_archive(service: Serves, id: models.JobId) -> StreamingResponse:
    """All files of the result."""
    row = service.store.job(id)
    if not row["result"]:
        raise ConflictError("The job has no result.", "Wait until it has succeeded.")
    return zipped(service, [row], row["name"])


def zipped(service: Serves, rows: list[Row], name: str) -> StreamingResponse:
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{archive.quoted(safe_filename(name))}.zip"}
    return StreamingResponse(archive.pieces(service.vault, rows), media_type="application/zip", headers=headers)


def _stream(service: Serves, job: str | None, last: str | None, otherwise: int, once: bool = False) -> StreamingResponse:
    service.hub.check_room()
    after = int(last) if last and last.isdecimal() and len(last) < 18 else otherwise
    return StreamingResponse(events.stream(service.store, service.hub, job, after, once), media_type="text/event-stream")


def _told(service: Serves, response: Response, row: Row, status: int) -> models.JobOut:
    response.status_code = status
    response.headers["Location"] = f"{views.V1}/jobs/{row['id']}"
    return views.job(service.store, row)
