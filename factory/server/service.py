"""The server without HTTP: store, vault, dispatcher, keeper and hub, opened and closed together. One server for each data folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from ...client import LocalBackend
from ...contract.backend import Backend
from ...contract.errors import BusyError, ConflictError, OutputError, StorageError
from ..batch.ledger import FolderLock
from .aside import Aside
from .database import Database
from .dispatcher import Dispatcher
from .events import Hub
from .keeper import Keeper
from .limits import Limits
from .room import Room
from .store import Store
from .vault import Vault


def local(spool: Path, workers: int, environment: Mapping[str, str]) -> Backend:
    """The server's workers are always processes of this machine: SAM3D_SERVER is for those who call, and could name this very server."""
    return LocalBackend(environment=environment, take=Aside(spool, workers))


class Service:
    """root: the data folder. environments: one for each worker. Raises StorageError or ConflictError where the folder can't be used."""

    def __init__(
        self,
        root: Path,
        limits: Limits,
        environments: list[dict[str, str]],
        open_backend: Callable[[Mapping[str, str]], Backend] | None = None,
    ) -> None:
        self.root, self.limits = root, limits
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as problem:
            raise StorageError(f"The data folder {root} can't be made: {problem.strerror}.", "Choose another --data.") from problem
        self._lock = FolderLock(root)
        try:
            self._lock.__enter__()
        except OutputError as problem:
            raise ConflictError(
                f"The data folder {root} is in use, or can't be written.", "Stop the other server, or choose another --data."
            ) from problem
        self.database = Database(root / "sam3d.sqlite3")
        self.store = Store(self.database, max_queue=limits.max_queue, log_lines=limits.log_lines)
        self.vault = Vault(root, self.database, limits)
        self.hub = Hub()
        self.store.listen = self.hub.tell
        self._memory, self._decoding = Room(limits.memory), Room(1)
        self.dispatcher = Dispatcher(
            environments,
            self.store,
            self.vault,
            limits,
            self._memory,
            open_backend or partial(local, self.vault.spool, max(1, len(environments))),
        )
        self.keeper = Keeper(self.store, self.vault, limits)
        self._flights: Counter[str] = Counter()

    def start(self) -> None:
        """On the event loop's thread."""
        self.hub.open()
        self.vault.sweep()
        self.dispatcher.start()
        self.keeper.start()

    def stop(self) -> None:
        """Ends the workers; their jobs go back into the queue."""
        self.dispatcher.stop()
        self.keeper.stop()
        self.database.close()
        self._lock.__exit__()

    @asynccontextmanager
    async def decoding(self, need: int) -> AsyncIterator[None]:
        """Around what takes so many bytes of memory. Pictures are large: of all calls one at a time, so that a job waits for one call and not for all."""
        async with self._decoding.taking(1), self._memory.taking(need):
            yield

    @contextmanager
    def flight(self, what: str, most: int) -> Iterator[None]:
        """Around what may happen only so often at once. On the event loop's thread. Raises BusyError."""
        if self._flights[what] >= most:
            raise BusyError(f"The server does {most} of these at once, and it does.")
        self._flights[what] += 1
        try:
            yield
        finally:
            self._flights[what] -= 1
            if not self._flights[what]:
                del self._flights[what]
