"""Retention: jobs that ended long ago go, and files that nobody refers to. Runs at the start and then every few minutes, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time

from .limits import Limits
from .store import Store
from .vault import Vault

EVERY = 300.0  # seconds
ORPHANED = 300.0  # seconds for which a result stays whose jobs were deleted: somebody may be asking for it now
log = logging.getLogger("sam3d.server")


def tidy(store: Store, vault: Vault, limits: Limits, now: float | None = None) -> int:
    """Forget what is older than the limits say; returns how many jobs went."""
    moment = time.time() if now is None else now
    gone = store.ended_before(moment - limits.keep_jobs)
    for job in gone:
        store.delete(job)
    store.drop_empty_batches(moment - limits.keep_jobs)
    for kind, id in vault.unused(moment - limits.keep_files, moment - min(limits.keep_files, ORPHANED)):
        vault.drop(kind, id)
    return len(gone)


class Keeper:
    def __init__(self, store: Store, vault: Vault, limits: Limits) -> None:
        self._store, self._vault, self._limits = store, vault, limits
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sam3d-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def _run(self) -> None:
        while True:
            try:
                tidy(self._store, self._vault, self._limits)
            except Exception:  # a full disk, for one: this thread is what may end that
                log.exception("tidying up failed")
            if self._stop.wait(EVERY):
                return
