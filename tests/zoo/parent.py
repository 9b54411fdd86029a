"""A host of a worker, to be killed: `python parent.py WAY`. Prints the worker's process id, then what the test waits for."""

from __future__ import annotations

import os
import sys
import time
import traceback

from comfyui_sam3d.client import State
from comfyui_sam3d.contract import Log, Progress
from comfyui_sam3d.contract.errors import WorkerStateError
from comfyui_sam3d.tests.zoo.keeper import ask, backend, first


def say(*words: object) -> None:
    print(*words, flush=True)


def main(way: str) -> None:
    before = ["env", "-u", "SAM3D_LIFELINE_FD"] if way.startswith("bare-") else []
    zoo = backend(before=before, silence=1.2 if way == "stopped" else 60.0)
    say(zoo.start().pid)
    if way in ("idle", "bare-idle"):
        time.sleep(60)
    elif way in ("busy", "bare-busy", "locked"):
        job = zoo.reconstruct(ask("holds_the_lock" if way == "locked" else "sleeps", 60))
        first(job, Progress)
        say("busy")
        job.result()
    elif way == "forked":
        if os.fork() == 0:
            try:
                zoo.reconstruct(ask("tame"))
            except WorkerStateError as problem:
                assert "forked" in str(problem)
            zoo.close()  # nothing: it is the parent's
            say(os.getpid())
            time.sleep(60)
            os._exit(0)
        zoo.reconstruct(ask("tame")).result()
        say("still works")
        time.sleep(60)
    elif way == "child":
        job = zoo.reconstruct(ask("leaves_a_child", 0))
        say(first(job, Log).text.split()[1])
        time.sleep(60)
    elif way == "leaves":  # without a close, in mid job
        first(zoo.reconstruct(ask("sleeps", 60)), Progress)
        say("leaving")
    elif way == "stopped":
        job = zoo.reconstruct(ask("answers_late", 16 << 20))
        first(job, Progress)
        say("stop me")
        assert len(job.result().parameters["big"]) == 16 << 20
        assert zoo.state is State.READY
        say(zoo.reconstruct(ask("tame")).result().parameters["pid"])
    elif way == "interrupted":
        job = zoo.reconstruct(ask("steps", 20))
        first(job, Progress)
        try:
            say("interrupt me")
            job.result()
            time.sleep(60)
        except KeyboardInterrupt:
            traceback.clear_frames(sys.exc_info()[2])
        say(job.result().parameters, zoo.reconstruct(ask("tame")).result().parameters["pid"])


if __name__ == "__main__":
    main(sys.argv[1])
