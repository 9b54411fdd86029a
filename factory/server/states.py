"""The states of a job, and every transition that there is.

    queued -> starting    a worker's thread has claimed it: this counts as an attempt
    starting -> running   the worker has said something about it
    starting, running -> queued    the attempt was lost with its worker or with the server, and others are left
    starting -> succeeded          its result was there already, complete (a server that was killed between result and record)
    queued -> failed               what it was made of is gone

A job may also be born `succeeded`: the result of the same request was there. What isn't in the table doesn't happen: the store refuses it.
"""

from __future__ import annotations

import enum


class Status(str, enum.Enum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


BORN = frozenset({Status.QUEUED, Status.SUCCEEDED})
TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED})
CLAIMED = frozenset({Status.STARTING, Status.RUNNING})  # a worker's thread has it

LEGAL: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.STARTING, Status.FAILED, Status.CANCELED}),
    Status.STARTING: frozenset({Status.RUNNING, Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELED}),
    Status.RUNNING: frozenset({Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELED: frozenset(),
}
