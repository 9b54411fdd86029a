"""Batches: jobs that belong together."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from ....contract.errors import ConflictError, OptionError
from ....contract.names import safe_filename
from .. import intake, models, params, views
from ..service import Service
from ..states import TERMINAL, Status
from ..store import NewJob, Once
from . import Serves, router
from .jobs import Key, zipped

routes = router("batches")
_ZIP: dict[int | str, dict[str, Any]] = {200: {"content": {"application/zip": {}}, "description": "An archive."}}


@routes.post("/batches", status_code=201, responses={200: {"model": models.BatchOut, "description": "It was there already."}})
async def add_batch(service: Serves, response: Response, body: models.BatchIn, key: Key = None) -> models.BatchOut:
    """Queue a job for each item, all or none."""
    items = await run_in_threadpool(_items, service, body)
    once = None if key is None else Once(key, intake.digest_of(body))
    id, made = service.store.add_batch(safe_filename(body.name, "batch"), items, once)
    response.status_code = 201 if made else 200
    response.headers["Location"] = f"{views.V1}/batches/{id}"
    return views.batch(service.store, service.store.batch(id))


def _items(service: Service, body: models.BatchIn) -> list[NewJob]:
    most = min(service.limits.max_batch, service.limits.max_queue)
    if len(body.items) > most:
        raise OptionError(f"The batch has {len(body.items)} items, and may have {most}.", "Send its items as several batches.")
    common = params.given(body.params)
    return [intake.job(service, item, common) for item in body.items]


@routes.get("/batches")
async def list_batches(service: Serves, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> models.BatchList:
    """Newest first, without their jobs."""
    return models.BatchList(batches=[views.batch_line(service.store, row) for row in service.store.batches(limit)])


@routes.get("/batches/{id}")
async def get_batch(service: Serves, id: models.JobId) -> models.BatchOut:
    """A batch and its jobs, in the order in which they were given."""
    return views.batch(service.store, service.store.batch(id))


@routes.post("/batches/{id}/cancel")
async def cancel_batch(service: Serves, id: models.JobId) -> models.BatchOut:
    """Cancel all of its jobs that haven't ended."""
    batch = service.store.batch(id)
    for row in service.store.jobs(batch=id, limit=10_000):
        if Status(row["status"]) not in TERMINAL:
            try:
                service.store.cancel(row["id"])
            except ConflictError:  # it has ended in this moment
                continue
    return views.batch(service.store, batch)


@routes.get("/batches/{id}/archive.zip", response_class=StreamingResponse, responses=_ZIP)
async def batch_archive(service: Serves, id: models.JobId) -> StreamingResponse:
    """The files of all jobs that have succeeded so far, a folder each."""
    batch = service.store.batch(id)
    return zipped(service, list(reversed(service.store.jobs(batch=id, status="succeeded", limit=10_000))), batch["name"])
