"""What happens to the server when its disk is full, and to what people still need when it tidies up."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comfyui_sam3d.contract.errors import NotFoundError, OutputError
from comfyui_sam3d.factory import output
from comfyui_sam3d.factory.server import keeper
from comfyui_sam3d.factory.server.database import Database
from comfyui_sam3d.factory.server.keeper import ORPHANED, Keeper, tidy
from comfyui_sam3d.factory.server.store import NewJob, Store

from .server_app import SMALL, V1, error, png, send_image, send_job, server, wait

FULL = sqlite3.OperationalError("database or disk is full")


class _Full:
    """A connection on a full disk: `where` decides which statements fail."""

    def __init__(self, real: sqlite3.Connection, where: str) -> None:
        self._real, self._where = real, where

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql.startswith(self._where):
            raise FULL
        return self._real.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def full_disk(database: Database, where: str) -> Iterator[None]:
    real = database._connection
    database._connection = _Full(real, where)  # type: ignore[assignment]
    try:
        yield
    finally:
        database._connection = real


def test_a_commit_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    """Else everything from then on would be part of a transaction that nobody ends, and be lost with the process."""
    store = Store(database := Database(tmp_path / "x.sqlite3"), max_queue=10)
    with full_disk(database, "COMMIT"), pytest.raises(sqlite3.OperationalError):
        store.add(NewJob(request_key="0" * 64))
    assert store.queued() == 0 and not database._connection.in_transaction
    store.add(NewJob(request_key="1" * 64))
    with sqlite3.connect(tmp_path / "x.sqlite3") as other:
        assert other.execute("SELECT count(*) FROM jobs").fetchone()[0] == 1
    other.close()
    database.close()


@pytest.mark.parametrize("where", ["UPDATE", "COMMIT", "INSERT INTO files", "INSERT INTO events"])
def test_a_disk_that_was_full_for_a_while_ends_no_worker_and_loses_no_job(tmp_path: Path, where: str) -> None:
    with server(tmp_path) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        job = send_job(client, params={"seed": 1001})["id"]
        wait(client, job, ("running",))
        with full_disk(service.database, where):
            time.sleep(1.6)  # it is made meanwhile, and can't be recorded
        assert wait(client, job)["status"] == "succeeded"
        with full_disk(service.database, "UPDATE"):
            with service.store.work:
                service.store.work.notify_all()
            time.sleep(0.1)
        assert wait(client, send_job(client, params={"seed": 2})["id"])["status"] == "succeeded"


def test_a_claim_that_fails_ends_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(tmp_path) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        real, failed = service.store.claim, []

        def claim() -> Any:
            if not failed:
                failed.append(1)
                raise FULL
            return real()

        monkeypatch.setattr(service.store, "claim", claim)
        assert wait(client, send_job(client, params={"seed": 3})["id"])["status"] == "succeeded" and failed


def test_the_keeper_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def broken(*_: object) -> None:
        calls.append(1)
        raise FULL

    monkeypatch.setattr(keeper, "tidy", broken)
    monkeypatch.setattr(keeper, "EVERY", 0.01)
    found = Keeper(None, None, SMALL)  # type: ignore[arg-type]
    found.start()
    end = time.monotonic() + 5
    while len(calls) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    found.stop()
    assert len(calls) >= 3


def test_a_result_that_cannot_be_written_tells_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(place: output.Place, *_: object, **__: object) -> None:
        raise OutputError(f"{place.folder} can't be written: No space left on device.")

    with server(tmp_path) as client:
        monkeypatch.setattr(output, "write_result", full)
        job = wait(client, send_job(client, params={"seed": 4})["id"])
    assert job["status"] == "failed" and job["error"]["code"] == "E_STORAGE" and str(tmp_path) not in str(job["error"])


def test_the_back_of_a_job_stays_as_long_as_the_job(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        back = send_image(client, png(shade=9, alpha=True))["id"]
        job = wait(client, send_job(client, params={"back_image": back})["id"])
        tidy(service.store, service.vault, service.limits, time.time() + 10 * 86400)
        assert client.get(f"{V1}/images/{back}").status_code == 200
        service.vault.drop("image", back)  # by hand
        error(client.post(f"{V1}/jobs/{job['id']}/retry"), 404, "E_NOT_FOUND")


def test_deleting_a_job_makes_room_soon(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        job = wait(client, send_job(client)["id"])
        tidy(service.store, service.vault, service.limits, time.time() + ORPHANED + 60)
        assert list((tmp_path / "results").iterdir())
        client.delete(f"{V1}/jobs/{job['id']}")
        tidy(service.store, service.vault, service.limits, time.time())
        assert list((tmp_path / "results").iterdir())  # somebody may be asking for it in this moment
        tidy(service.store, service.vault, service.limits, time.time() + ORPHANED + 60)
        assert not list((tmp_path / "results").iterdir()) and client.get(f"{V1}/images/{job['image_id']}").status_code == 200
        with pytest.raises(NotFoundError):
            service.store.job(job["id"])


def test_a_frame_that_does_not_fit_is_refused_before_it_is_kept(tmp_path: Path) -> None:
    with server(tmp_path, limits=replace(SMALL, quota=1000)) as client:
        answer = client.post(f"{V1}/frames", content=b"x" * 5000, headers={"Content-Type": "application/octet-stream"})
        error(answer, 507, "E_STORAGE")
        assert not list((tmp_path / "spool").iterdir())
