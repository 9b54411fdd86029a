"""The files of the server: pictures, masks, requests and results, each under the sha256 of what it is, written aside and renamed.

    images/ab/<id>.png    masks/ab/<id>.png    thumbs/ab/<id>-<width>.webp    frames/ab/<id>.frame    results/<key>/...    spool/

The database knows the size and the last use of each, and the sum is what the quota counts. No name that a caller chose is ever part of a path.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...contract.errors import NotFoundError, StorageError
from .. import output
from .database import Database
from .ids import SHA
from .limits import Limits

_KINDS = {"image": ("images", ".png"), "mask": ("masks", ".png"), "thumb": ("thumbs", ".webp"), "frame": ("frames", ".frame")}
_NAME = re.compile(r"[0-9a-f]{64}(-[0-9]{2,4})?")


class Vault:
    """Methods may be called from any thread."""

    def __init__(self, root: Path, database: Database, limits: Limits) -> None:
        self.root, self._db, self._limits = root, database, limits
        self.results, self.spool = root / "results", root / "spool"
        for folder in (self.results, self.spool, *(root / name for name, _ in _KINDS.values())):
            folder.mkdir(parents=True, exist_ok=True)

    # -- files by content

    def path(self, kind: str, id: str) -> Path:
        """Where this file is or would be. Raises NotFoundError for what can't be an id."""
        if not _NAME.fullmatch(id):
            raise NotFoundError(f"{id[:80]!r} is no {kind}.", "Ids are the sha256 of what was sent, in hex.")
        folder, suffix = _KINDS[kind]
        return self.root / folder / id[:2] / f"{id}{suffix}"

    def has(self, kind: str, id: str) -> bool:
        return self._db.row("SELECT 1 FROM files WHERE kind = ? AND id = ?", (kind, id)) is not None

    def meta(self, kind: str, id: str) -> dict[str, Any]:
        """What was written down with a file; marks it as used. Raises NotFoundError."""
        row = self._db.row("SELECT meta, used FROM files WHERE kind = ? AND id = ?", (kind, id))
        if row is None:
            raise NotFoundError(f"There is no {kind} {id}.", "It may have been removed; send it again.")
        now = time.time()
        if now - row["used"] > 60:
            with self._db.write() as db:
                db.execute("UPDATE files SET used = ? WHERE kind = ? AND id = ?", (now, kind, id))
        found: dict[str, Any] = json.loads(row["meta"])
        return found

    def put(self, kind: str, id: str, data: bytes | Path, meta: Mapping[str, Any]) -> bool:
        """Keep bytes, or a file of the spool, which is moved. False where it is there already. Raises StorageError."""
        if self.has(kind, id):
            return False
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        self.check_room(size)
        target = self.path(kind, id)
        aside = data if isinstance(data, Path) else self.spool / secrets.token_hex(16)
        try:
            target.parent.mkdir(exist_ok=True)
            with open(aside, "r+b" if isinstance(data, Path) else "xb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except OSError as problem:
            aside.unlink(missing_ok=True)
            raise _no_space(problem) from problem
        self._record(kind, id, size, meta)
        return True

    def _record(self, kind: str, id: str, size: int, meta: Mapping[str, Any]) -> None:
        now = time.time()
        with self._db.write() as db:
            known = "ON CONFLICT DO UPDATE SET bytes = excluded.bytes, meta = excluded.meta, used = excluded.used"
            db.execute(f"INSERT INTO files VALUES (?, ?, ?, ?, ?, ?) {known}", (kind, id, size, json.dumps(meta), now, now))

    # -- results

    def place(self, key: str) -> output.Place:
        """A result's place. Raises NotFoundError for what is no key."""
        if not re.fullmatch(SHA, key):
            raise NotFoundError("There is no such result.", "Retry the job to make it.")
        return output.Place(self.results, key)

    def result(self, key: str) -> dict[str, Any] | None:
        """The meta.json of a complete result, each file looked at with its size and hash; recorded, if that had been missed. Else None."""
        meta = output.complete_meta(self.place(key))
        if meta is not None:
            self.record_result(key, meta)
        return meta

    def record_result(self, key: str, meta: Mapping[str, Any]) -> None:
        self._record("result", key, sum(record["size"] for record in meta["files"].values()), {})

    # -- room

    def used(self) -> int:
        found = self._db.row("SELECT total(bytes) FROM files")
        return int(found[0]) if found else 0

    def check_room(self, size: int) -> None:
        """Raises StorageError where so many bytes more are beyond the quota, or beyond the disk."""
        quota = self._limits.quota
        if quota is not None and self.used() + size > quota:
            raise StorageError(f"The server's share of the disk ({quota >> 20} MiB) is used up.", "Delete jobs that are no longer needed.")
        if shutil.disk_usage(self.root).free < size + self._limits.reserve:
            raise StorageError("The server's disk is full.", "Delete jobs that are no longer needed, or free some space.")

    def drop(self, kind: str, id: str) -> None:
        """The file first, then its record: a kill in between leaves a record without a file, which `sweep` finds."""
        if kind == "result":
            shutil.rmtree(self.place(id).folder, ignore_errors=True)
        else:
            self.path(kind, id).unlink(missing_ok=True)
        with self._db.write() as db:
            db.execute("DELETE FROM files WHERE kind = ? AND id = ?", (kind, id))

    def sweep(self) -> None:
        """At the start: make files and records agree again. What lies in the spool belongs to calls that ended with the server before."""
        for aside in self.spool.iterdir():
            with suppress(OSError):
                aside.unlink()
        output.remove_leftovers(self.results, "server")
        known = {(row["kind"], row["id"]) for row in self._db.rows("SELECT kind, id FROM files")}
        there = {(kind, path.stem): path for kind, (folder, suffix) in _KINDS.items() for path in (self.root / folder).glob(f"*/*{suffix}")}
        for kind, id in known - there.keys():
            if kind != "result" or not self.place(id).meta.is_file():
                with self._db.write() as db:
                    db.execute("DELETE FROM files WHERE kind = ? AND id = ?", (kind, id))
        for found in there.keys() - known:
            there[found].unlink(missing_ok=True)
        for folder in self.results.iterdir():
            if re.fullmatch(SHA, folder.name) and ("result", folder.name) not in known and self.result(folder.name) is None:
                shutil.rmtree(folder, ignore_errors=True)

    def unused(self, before: float, results_before: float) -> list[tuple[str, str]]:
        """Files that no job refers to and that were last used before a moment; for results it is another one."""
        rules = {
            "image": "SELECT image FROM jobs WHERE image IS NOT NULL"
            " UNION SELECT json_extract(params, '$.back_image') FROM jobs WHERE json_extract(params, '$.back_image') IS NOT NULL",
            "mask": "SELECT value FROM jobs, json_each(jobs.masks)",
            "frame": "SELECT frame FROM jobs WHERE frame IS NOT NULL AND status != 'succeeded'",  # large, and its result is there
            "result": "SELECT result FROM jobs WHERE result IS NOT NULL",
        }
        found = []
        for kind, rule in rules.items():
            rows = self._db.rows(
                f"SELECT id FROM files WHERE kind = ? AND used < ? AND id NOT IN ({rule})",
                (kind, results_before if kind == "result" else before),
            )
            found += [(kind, str(row["id"])) for row in rows]
        thumbs = self._db.rows(
            "SELECT id FROM files WHERE kind = 'thumb' AND substr(id, 1, 64) NOT IN (SELECT id FROM files WHERE kind = 'image')"
        )
        return found + [("thumb", str(row["id"])) for row in thumbs]


def _no_space(problem: OSError) -> StorageError:
    return StorageError(f"A file can't be written: {problem.strerror or problem}.", "Look at the disk of the server's data folder.")
