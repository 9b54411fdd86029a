"""The files of finished jobs: one by one from a closed set of names, or all together as a ZIP that is written while it is sent."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from ...contract.errors import NotFoundError
from ...contract.names import unique_filenames
from .. import output
from .service import Service
from .store import Row
from .vault import Vault
from .work import SCENE

_CHUNK = 1 << 18


def file_of(service: Service, row: Row, name: str) -> tuple[Path, str]:
    """A result's file and its tag. Only names that the result itself lists lead anywhere. Raises NotFoundError."""
    files = json.loads(row["outputs"])["files"] if row["outputs"] else {}
    if name == output.META and row["result"]:
        path, sha = service.vault.place(row["result"]).meta, f"{row['result']}-meta"
    elif name in files and output.is_inside(name):
        path, sha = service.vault.place(row["result"]).path(name), str(files[name]["sha256"])
    else:
        raise NotFoundError("The job has no such file.", "Its `outputs` list what it has.")
    root = service.vault.results.resolve()
    if not path.resolve().is_relative_to(root) or not path.is_file():  # after links are followed
        raise NotFoundError("The file is gone.", "Retry the job to make it again.")
    return path, sha


class _Pipe:
    """What zipfile writes into: keeps the bytes until they are taken, can't go back."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._count = 0

    def write(self, data: bytes) -> int:
        self._waiting += data
        self._count += len(data)
        return len(data)

    def tell(self) -> int:
        return self._count

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        data = bytes(self._waiting)
        self._waiting.clear()
        return data


def pieces(vault: Vault, rows: Sequence[Row]) -> Iterator[bytes]:
    """A ZIP of the results of these jobs, each in a folder of its own name. Stored, not deflated: the formats are compressed already."""
    done = [row for row in rows if row["result"]]
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]  # an unseekable stream will do
        for row, folder in zip(done, unique_filenames(row["name"] for row in done)):
            place = vault.place(row["result"])
            for name in [*json.loads(row["outputs"])["files"], output.META]:
                path = place.path(name)
                if name == SCENE or not path.is_file():
                    continue
                with open(path, "rb") as source, archive.open(zipfile.ZipInfo(f"{folder}/{name}"), "w", force_zip64=True) as target:
                    while chunk := source.read(_CHUNK):
                        target.write(chunk)
                        yield pipe.take()
    yield pipe.take()


def quoted(name: str) -> str:
    """For a header: everything but plain letters escaped."""
    return quote(name, safe="", errors="replace")
