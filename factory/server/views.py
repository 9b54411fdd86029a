"""Rows of the database as the answers of the API."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from ...contract.errors import Sam3dError
from .models import BatchLine, BatchOut, ErrorText, FileOut, ImageOut, JobOut, MaskOut, WorkerOut
from .pictures import Kept
from .slot import Slot
from .states import TERMINAL
from .store import Row, Store
from .work import SCENE

V1 = "/api/v1"


def image(kept: Kept) -> ImageOut:
    return ImageOut(id=kept.id, width=kept.width, height=kept.height, has_alpha=kept.has_alpha, url=f"{V1}/images/{kept.id}")


def mask(kept: Kept, image_id: str) -> MaskOut:
    url = f"{V1}/masks/{kept.id}"
    return MaskOut(id=kept.id, image_id=image_id, width=kept.width, height=kept.height, area=kept.area, bounds=list(kept.bounds), url=url)


def job(store: Store, row: Row) -> JobOut:
    outputs = json.loads(row["outputs"]) if row["outputs"] else None
    own = f"{V1}/jobs/{row['id']}"
    links = {"self": own, "events": f"{own}/events", "cancel": f"{own}/cancel", "retry": f"{own}/retry"}
    if row["result"]:
        links |= {"archive": f"{own}/archive.zip"}
        if row["kind"] != "export":
            links |= {"scene": f"{own}/files/{SCENE}"}
    return JobOut(
        id=row["id"],
        kind=row["kind"],
        status=row["status"],
        name=row["name"],
        image_id=row["image"],
        mask_ids=json.loads(row["masks"]),
        names=json.loads(row["names"]),
        params=json.loads(row["params"]),
        priority=row["priority"],
        queue_position=store.position(row),
        stage=row["stage"],
        progress=row["progress"],
        eta_s=row["eta"],
        attempts=row["attempts"],
        cancel_requested=bool(row["cancel"]),
        cached=bool(row["cached"]),
        batch_id=row["batch"],
        retry_of=row["retry_of"],
        created_at=_moment(row["created"]) or "",
        started_at=_moment(row["started"]),
        finished_at=_moment(row["finished"]),
        seconds=row["seconds"],
        outputs=_files(own, outputs),
        result=None if outputs is None else {key: value for key, value in outputs.items() if key != "files"},
        error=None if row["error"] is None else ErrorText(**json.loads(row["error"])),
        links=links,
    )


def _files(own: str, outputs: dict[str, Any] | None) -> list[FileOut]:
    files = {} if outputs is None else outputs["files"]
    return [
        FileOut(name=name, bytes=known["size"], sha256=known["sha256"], url=f"{own}/files/{quote(name)}")
        for name, known in files.items()
        if name != SCENE
    ]


def batch(store: Store, row: Row) -> BatchOut:
    own = f"{V1}/batches/{row['id']}"
    links = {"self": own, "cancel": f"{own}/cancel", "archive": f"{own}/archive.zip"}
    jobs = [job(store, one) for one in reversed(store.jobs(batch=row["id"], limit=10_000))]
    return BatchOut(**batch_line(store, row).model_dump(), jobs=jobs, links=links)


def batch_line(store: Store, row: Row) -> BatchLine:
    counts = store.counts(row["id"])
    done = not any(counts[status] for status in counts if status not in {s.value for s in TERMINAL})
    return BatchLine(id=row["id"], name=row["name"], created_at=_moment(row["created"]) or "", counts=counts, done=done)


def worker(slot: Slot) -> WorkerOut:
    engines = [] if slot.hello is None else list(slot.hello.engines)
    known = {"name": slot.name, "state": slot.state, "job_id": slot.job, "engines": engines, "error": error(slot.problem)}
    return WorkerOut.model_validate(known)


def error(problem: Sam3dError | None) -> ErrorText | None:
    return None if problem is None else ErrorText(code=problem.code, message=problem.message, hint=problem.hint)


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
