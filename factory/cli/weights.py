"""`weights status | fetch | verify | convert | fake`: the model's files. The work is done by a program of the worker's side (client/tools.py)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ...client.tools import run_tool
from ...contract.errors import Sam3dError
from ..events import FAILED, OK, error_event, exit_code
from .show import JsonLines, open_show

_SIGNS = {"verified": "ok", "there": "ok", "made": "ok", "optional": "-", "not verified": "?"}


def run(verb: str, arguments: Sequence[str], *, as_json: bool) -> int:
    """One verb; returns the exit code. Events as in docs/weights.md; Ctrl-C ends the program, and `fetch` and `convert` go on the next time."""
    open_show(as_json=as_json)  # for the streams' encoding
    show = JsonLines() if as_json else _Text()
    ok = False
    try:
        for event in run_tool("weights", verb, *arguments):
            kind = str(event.pop("event", ""))
            if kind == "weights":
                ok = bool(event["ok"])
            show.event(kind, **event)
    except Sam3dError as problem:
        show.event("failed", name=None, error=error_event(problem), attempt=1, retry=False)
        return exit_code(problem)
    return OK if ok else FAILED


class _Text:
    """For people: a line for each file, and on a terminal a line that counts while something large is read or written."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = ""
        self._tenth: tuple[str, int] = ("", -1)

    def event(self, kind: str, /, **e: Any) -> None:
        if kind == "bytes":
            self._count(e)
            return
        self._erase()
        if kind == "file":
            size = "" if e["bytes"] is None else _size(e["bytes"])
            line = f"{_SIGNS.get(e['state'], '!!'):<3} {e['name']:<34} {size:>9}  {e['state']}"
            print(f"{line}: {e['text']}" if e["text"] else line, flush=True)
        elif kind == "log":
            print(f"{e['name']}: {e['level']}: {e['text']}", file=sys.stderr, flush=True)
        elif kind == "weights":
            print(f"{e['folder']}: {e['text']}", flush=True)
        elif kind == "failed":
            print(f"error {e['error']['code']}: {e['error']['message']}", file=sys.stderr, flush=True)
            print(*(f"    {line}" for line in e["error"]["hint"].splitlines()), sep="\n", file=sys.stderr, flush=True)

    def _count(self, e: dict[str, Any]) -> None:
        share = e["done"] / e["total"] if e["total"] else 0.0
        text = f"    {e['what']} {e['name']}: {_size(e['done'])} of {_size(e['total'] or 0)} ({100 * share:.0f} %)"
        if self._live:
            self._erase()
            print(text, end="", file=sys.stderr, flush=True)
            self._shown = text
        elif (tenth := (f"{e['what']} {e['name']}", int(10 * share))) != self._tenth and (e["total"] or 0) > 1e8:
            self._tenth = tenth
            print(text, file=sys.stderr, flush=True)

    def _erase(self) -> None:
        if self._shown:
            print("\r" + " " * len(self._shown), end="\r", file=sys.stderr, flush=True)
            self._shown = ""


def _size(count: float) -> str:
    if count < 1e6:
        return f"{count / 1e3:.0f} KB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
