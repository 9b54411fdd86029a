"""Small programs beside the worker, in the worker's interpreter: weights, doctor. They speak JSON lines on stdout and end with their caller.

A skin can't import worker/, and the interpreter that runs it may lack what they need; so they are called as the worker is.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..contract.errors import Sam3dError, SetupError, WorkerCrashed
from .group import ChildGroup
from .interpreter import tool_command, worker_environment
from .obituary import explain

STDERR_KEPT = 16384  # bytes
PATIENCE = 30.0  # seconds from the end of its output to the end of the program

Event = dict[str, Any]


def run_tool(name: str, *arguments: str, variables: Mapping[str, str] | None = None) -> Iterator[Event]:
    """The events of `python -m <pack>.worker.<name> arguments...`, as they come; their last one, or the exit code 1, says whether all is well.

    Closing the generator, or an exception in it (Ctrl-C), ends the program and its children. Raises SetupError (no interpreter), what the program itself
    failed of, and WorkerCrashed where it died. variables: added to its environment.
    """
    command = [*tool_command(name), *arguments]
    try:
        group = ChildGroup(command, {**worker_environment(), **(variables or {})})
    except OSError as problem:
        raise SetupError(f"{command[0]} can't be started: {problem.strerror or problem}.") from problem
    said = bytearray()
    listener = threading.Thread(target=_listen, args=(group, said), name=f"sam3d-tool-{group.pid}", daemon=True)
    listener.start()
    over = False
    try:
        with open(group.stdout.fileno(), encoding="utf-8", errors="replace", closefd=False) as lines:
            for line in lines:
                event = _event(line)
                if event.get("event") == "failed":
                    raise Sam3dError.from_json(event.get("error") or {})
                yield event
        over = True
    finally:
        code = _end(group, listener, PATIENCE if over else 0.0)
    if code not in (0, 1):
        raise explain(code, bytes(said).decode("utf-8", "replace"), WorkerCrashed, 0.0)


def _event(line: str) -> Event:
    try:
        event = json.loads(line)
    except ValueError as problem:
        raise WorkerCrashed(f"The program said something that is no event: {line.strip()[:200]}") from problem
    return event if isinstance(event, dict) else {}


def _listen(group: ChildGroup, said: bytearray) -> None:
    """The end of its stderr explains a death."""
    try:
        while chunk := group.stderr.read(65536):
            said += chunk
            del said[:-STDERR_KEPT]
    except (OSError, ValueError):
        pass


def _end(group: ChildGroup, listener: threading.Thread, patience: float) -> int:
    """Give the program `patience` seconds to end by itself, kill what still runs, give everything back."""
    give_up = time.monotonic() + patience
    while not group.exited() and time.monotonic() < give_up:
        time.sleep(0.01)
    group.stdin.close()
    code = group.reap()
    listener.join(1.0)
    for stream in (group.stdout, group.stderr):
        stream.close()
    group.release()
    return code
