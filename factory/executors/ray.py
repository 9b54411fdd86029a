"""The executor of a Ray cluster: one actor for each slot, with one GPU where the cluster has any.

RAY_ADDRESS names the cluster (`auto`: the one that runs on this machine). Without it a Ray of our own is started, on the loopback interface alone, and ended with the
batch. Every machine of a cluster needs the pack in the Python that Ray runs there, and the weights.

Ray repeats nothing (max_restarts = max_task_retries = 0): an actor that dies is a failed attempt, which the batch counts.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...client.job import LocalJob
from ...contract.backend import Cancelled, Failed, Log
from ...contract.errors import EngineError, OptionError, Sam3dError, SetupError, WorkerCrashed, WorkerError, WorkerStartError
from ...contract.request import ReconstructRequest
from .relay import Relay, read_event, request_frame

ADDRESS = "RAY_ADDRESS"
PATIENCE = 15.0  # seconds without any sign of an actor after which it is said that it waits
OBJECT_STORE = 512 << 20  # bytes of shared memory of a Ray of our own: results are taken out at once
# Of a Ray of our own. The second is Ray's name for "no cluster on this machine": all its servers then listen on the loopback interface alone.
_OWN = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayExecutor:
    """workers: actors; None: as many as the cluster has GPUs, or CPU cores without any. on_cpu: actors take a CPU core and no GPU.

    Ray is met with the first question for `slots` or the first lease, by the thread that asks.
    """

    def __init__(self, workers: int | None = None, *, on_cpu: bool = False) -> None:
        self._wanted, self._on_cpu = workers, on_cpu
        self._lock = threading.Lock()
        self._slots = 0  # 0: not connected
        self._gpus = False

    @property
    def slots(self) -> int:
        with self._lock:
            return self._slots or self._connect()

    def lease(self, number: int) -> RaySlot:
        del number  # all actors are alike
        _ = self.slots  # connects
        return RaySlot(gpus=self._gpus)

    def close(self) -> None:
        with self._lock:
            if self._slots:
                import ray

                ray.shutdown()
                self._slots = 0

    def _connect(self) -> int:
        cluster = os.environ.get(ADDRESS, "").strip()
        own = cluster in ("", "local")
        if own:
            for name, value in _OWN.items():
                os.environ.setdefault(name, value)
        import ray

        # Ray prints what it has to say of dead actors into stdout, which is the command's own; log_to_driver doesn't stop that, and nothing public does.
        ray._private.worker._worker_logs_enabled = False
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if not own:
                _knock(cluster)
            with _signals_kept():
                if own:
                    cores = max(self._wanted or 1, os.cpu_count() or 1)
                    ray.init(address="local", num_cpus=cores, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
                else:
                    ray.init(address=cluster, **quiet)
            found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        except Exception as problem:
            where = "Ray can't be started" if own else f"The Ray cluster at {cluster} can't be reached"
            text = str(problem).strip().split("\n")[0]
            hint = f"Correct {ADDRESS}; a cluster that asks for a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too."
            raise SetupError(
                f"{where}: {text}", "Look whether `ray` works here by itself." if own else hint, detail=repr(problem)
            ) from problem
        self._gpus = not self._on_cpu and found.get("GPU", 0) >= 1
        kind = "GPU" if self._gpus else "CPU"
        there = int(found.get(kind, 0))
        if there < (self._wanted or 1):
            ray.shutdown()
            raise OptionError(
                f"{self._wanted or 1} actors of one {kind} each: the Ray cluster has {there}.", "Ask for fewer with --workers."
            )
        self._slots = self._wanted or there
        return self._slots


class RaySlot:
    """One actor, started with the first job, and again with the next job after it died."""

    def __init__(self, *, gpus: bool) -> None:
        self._gpus = gpus
        self._numbers = itertools.count(1)
        self._actor: Any = None
        self._job: LocalJob | None = None
        self._follower: threading.Thread | None = None

    def reconstruct(self, request: ReconstructRequest) -> LocalJob:
        frame = request_frame(next(self._numbers), request)
        if self._actor is None:
            self._actor = self._started()
        job = self._job = LocalJob(0, lambda _: self.close())
        self._follower = threading.Thread(target=self._follow, args=(job, self._actor, frame), name="sam3d-ray", daemon=True)
        self._follower.start()
        return job

    def close(self) -> None:
        """Kill the actor: its worker sees the end of its stdin and ends too."""
        actor, self._actor = self._actor, None
        if self._job is not None:
            self._job.put(Cancelled())
        if actor is not None:
            import ray

            ray.kill(actor, no_restart=True)
        if self._follower is not None and self._follower is not threading.current_thread():
            self._follower.join(10)

    def _started(self) -> Any:
        import ray

        needs = {"num_cpus": 1, "num_gpus": 1 if self._gpus else 0}
        return ray.remote(Relay).options(**needs, max_restarts=0, max_task_retries=0).remote()

    def _follow(self, job: LocalJob, actor: Any, frame: bytes) -> None:
        """On a thread of its own: the actor's frames become the job's events."""
        import ray

        problem: Sam3dError
        try:
            answers = actor.run.options(num_returns="streaming").remote(frame)
            if not ray.wait([answers], timeout=PATIENCE)[0]:
                job.put(Log(f"waiting for a free {'GPU' if self._gpus else 'CPU core'} of the Ray cluster"))
            for answer in answers:
                job.put(read_event(ray.get(answer))[1])
            problem = WorkerCrashed("The Ray actor's answer has no end.")
        except ray.exceptions.ActorUnschedulableError as error:
            problem = WorkerStartError(f"Ray can't place the actor: {error}", "Look at the cluster: ray status.")
        except ray.exceptions.RayActorError as error:
            # its machine was taken away, or is gone (Ray says that in words alone): not the job's doing
            lost = getattr(error, "preempted", False) or "node has died" in str(error)
            problem = (WorkerError if lost else WorkerCrashed)(
                "The Ray actor died in the middle of the job.", "The next attempt starts a fresh one.", detail=str(error)
            )
        except ray.exceptions.RayTaskError as error:
            problem = EngineError(
                f"The Ray actor failed: {error.cause!r}.", "Check that every machine has the same version of the pack.", detail=str(error)
            )
        except Sam3dError as error:
            problem = error
        except Exception as error:
            problem = WorkerError(f"Ray failed: {error!r}.", "Look at the cluster: ray status.", detail=str(error))
        if not job.finished and self._actor is actor:
            self._actor = None
        job.put(Failed(problem))  # nothing where the answer is there


def _knock(cluster: str) -> None:
    """Raises OSError where nobody listens at host:port; Ray itself would try for minutes."""
    host, _, port = cluster.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts its own handler of SIGTERM in the place of the batch's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
