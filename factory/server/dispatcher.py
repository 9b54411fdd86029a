"""Takes jobs off the queue: one thread for each worker, each with a Backend of its own. Attempts are counted here (store.claim) and nowhere else.

A kill of the server at any moment loses no job, because of the order:

    claim            the attempt is in the database before the worker hears of it
    result           written aside, renamed into results/<key>/ as one folder; the key is known from what the job is made of
    succeeded        recorded after that. Killed in between, the job is claimed again, and its result found by the key

and `recover`, at the start, puts back what a server that is no more had claimed.
"""

from __future__ import annotations

from typing import Any

from ...contract.errors import WorkerCrashed
from ...contract.messages import Hello
from ...contract.version import VERSION
from . import params, work
from .limits import Limits
from .room import Room
from .slot import Keys, Open, Slot
from .store import Store
from .vault import Vault


class Dispatcher:
    """All slots. environments: the variables that each worker gets beside this process's own. memory: what their jobs' pictures share with the calls'."""

    def __init__(
        self, environments: list[dict[str, str]], store: Store, vault: Vault, limits: Limits, memory: Room, open_backend: Open
    ) -> None:
        self._store, self._limits, self._vault = store, limits, vault
        keys = Keys()
        self.slots = [Slot(str(n), variables, store, vault, limits, keys, memory, open_backend) for n, variables in enumerate(environments)]

    def start(self) -> None:
        recover(self._store, self._limits)
        for slot in self.slots:
            slot.start()

    def stop(self) -> None:
        for slot in self.slots:
            slot.stop()
        for slot in self.slots:
            slot.join()

    @property
    def hello(self) -> Hello | None:
        return next((slot.hello for slot in self.slots if slot.hello is not None), None)

    def preview(self, job: str) -> bytes | None:
        """The last picture that a job sent, as a PNG: while it runs, and until another one on the same worker sends one.
        A second attempt's goes before that of a worker that died."""
        kept = [(slot.job != job, slot.preview) for slot in self.slots]  # each read once: its thread changes it
        return next((png for _, (of, png) in sorted(kept) if of == job), None)

    def find(self, request_key: str) -> tuple[str, dict[str, Any]] | None:
        """The key and the summary of a complete result of this request, where it is known what `auto` means and the result is there."""
        hello = self.hello
        if hello is None:
            return None
        key = params.result_key(request_key, VERSION, hello.engines, hello.weights)
        if not self._vault.has("result", key):
            return None
        meta = self._vault.result(key)
        return None if meta is None else (key, work.summary(meta))


def recover(store: Store, limits: Limits) -> None:
    """What a server that is no more had claimed goes back into the queue, as long as attempts are left. Cancelled ones are cancelled.

    One attempt more is given to a job whose attempts were used up by servers that ended: it may have been complete, and is then found by its key.
    """
    lost = WorkerCrashed("The server was stopped in the middle of this job.")
    for row in store.unfinished():
        if row["cancel"]:
            store.canceled(row["id"])
        elif row["attempts"] <= limits.attempts:
            store.lost(row["id"], lost)
        else:
            store.failed(
                row["id"], WorkerCrashed(f"The server was stopped {row['attempts']} times in the middle of this job.", "Try it again.")
            )
