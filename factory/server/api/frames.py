"""Requests in the worker's own form: one frame of docs/protocol.md, message Reconstruct, Prepare or Export. What client/remote.py sends."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from ....contract.errors import StorageError
from .. import intake, models, views
from ..store import Once
from . import Serves, router
from .jobs import Key

routes = router("jobs")
_FRAME = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}


@routes.post(
    "/frames", status_code=201, openapi_extra=_FRAME, responses={200: {"model": models.JobOut, "description": "It was there already."}}
)
async def add_frame(
    service: Serves,
    request: Request,
    response: Response,
    name: Annotated[str, Query(min_length=1, max_length=80)] = "object",
    priority: Annotated[int, Query(ge=-100, le=100)] = 0,
    key: Key = None,
) -> models.JobOut:
    """Queue a request in the worker's own form. Its scene is the file `scene.frame` of the job, message JobDone."""
    await run_in_threadpool(service.vault.check_room, int(request.headers.get("content-length", 0)))
    aside = service.vault.spool / secrets.token_hex(16)
    try:
        sha = await _spool(request, aside)
        async with service.decoding(aside.stat().st_size):
            new = await run_in_threadpool(intake.frame, service, aside, sha, name, priority)
    finally:
        await run_in_threadpool(_forget, aside)
    done = None if new.fresh else await run_in_threadpool(service.dispatcher.find, new.request_key)
    row, made = service.store.add(new, None if key is None else Once(key, sha), done)
    response.status_code = 201 if made and not done else 200
    response.headers["Location"] = f"{views.V1}/jobs/{row['id']}"
    return views.job(service.store, row)


async def _spool(request: Request, aside: FilePath) -> str:
    """The body into a file; returns its sha256. It is never in memory as a whole here."""
    digest = hashlib.sha256()
    try:
        file = await run_in_threadpool(open, aside, "xb")
        try:
            async for chunk in request.stream():
                digest.update(chunk)
                await run_in_threadpool(file.write, chunk)
        finally:
            await run_in_threadpool(file.close)
    except OSError as problem:
        raise StorageError(
            f"The body can't be kept: {problem.strerror or problem}.", "Look at the disk of the server's data folder."
        ) from problem
    return digest.hexdigest()


def _forget(aside: FilePath) -> None:
    """Where it wasn't moved into the vault."""
    if os.path.exists(aside):
        aside.unlink(missing_ok=True)
