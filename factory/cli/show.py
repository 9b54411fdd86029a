"""What a command says: every message is an event (docs/cli.md), and a Show turns events into JSON lines, plain lines, bars, or nothing.

Results go to stdout, errors and warnings to stderr. With --json stdout carries one JSON object a line and nothing else.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def open_show(*, as_json: bool = False, quiet: bool = False) -> Show:
    """The Show for this terminal and these options."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name that the terminal can't show is no reason to fail
    if as_json:
        return JsonLines()
    if quiet:
        return Show()
    if sys.stdout.isatty():
        from .bars import Bars

        return Bars()
    return Lines()


class Show:
    """Says nothing but errors. A context manager; `event` may be called from the main thread alone."""

    def __enter__(self) -> Show:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def event(self, kind: str, /, **fields: Any) -> None:
        """One event; kinds and fields are those of docs/cli.md."""
        method = getattr(self, f"on_{kind}", None)
        if method is not None:
            method(fields)

    def out(self, text: str) -> None:
        """A line for stdout."""

    def err(self, text: str) -> None:
        """A line for stderr."""
        print(text, file=sys.stderr, flush=True)

    def on_failed(self, e: dict[str, Any]) -> None:
        error = e["error"]
        again = "; trying again" if e.get("retry") else ""
        self.err(f"{_label(e)}error {error['code']}: {error['message']}{again}")
        if e.get("quarantined"):
            self.err("    It killed its worker more than once: it isn't tried again without --retry-quarantined.")
        elif e.get("earlier"):
            self.err("    So it failed in an earlier run; it isn't tried again without --retry-failed.")
        elif error["hint"] and not e.get("retry"):
            self.err("\n".join(f"    {line}" for line in error["hint"].splitlines()))


class JsonLines(Show):
    """One JSON object a line on stdout."""

    def event(self, kind: str, /, **fields: Any) -> None:
        print(json.dumps({"event": kind, **fields}, ensure_ascii=False), flush=True)


class Lines(Show):
    """Plain lines, for pipes and logs."""

    def __init__(self) -> None:
        self._stages: dict[str, str] = {}
        self._said: set[str] = set()

    def out(self, text: str) -> None:
        print(text, flush=True)

    def on_start(self, e: dict[str, Any]) -> None:
        if e.get("watch"):
            self.out(f"watching {e['source']}, results in {e['out']}; Ctrl-C ends")
        elif "items" in e:
            self.out(f"{e['items'] or 'no'} {'item' if e['items'] == 1 else 'items'} in {e['source']}, results in {e['out']}")

    def on_item(self, e: dict[str, Any]) -> None:
        again = f" (attempt {e['attempt']})" if e["attempt"] > 1 else ""
        self.out(f"{_label(e)}{e['image']}{again}")

    def on_progress(self, e: dict[str, Any]) -> None:
        if self._stages.get(e["name"]) != e["stage"]:
            self._stages[e["name"]] = e["stage"]
            self.out(f"{_label(e)}{e['stage']} ({round(100 * e['fraction'])} %)")

    def on_log(self, e: dict[str, Any]) -> None:
        if e["level"] == "warning":
            self.err(f"{_label(e)}warning: {e['text']}")
        else:
            self.out(f"{_label(e)}{e['text']}")

    def on_done(self, e: dict[str, Any]) -> None:
        for text in e["warnings"] if e["state"] in ("made", "replaced") else ():
            if text not in self._said:  # a batch says once what is true of all its items
                self._said.add(text)
                self.err(f"{_label(e)}warning: {text}")
        self.out(_label(e) + done_text(e))

    def on_cancelled(self, e: dict[str, Any]) -> None:
        self.err(f"{_label(e)}cancelled; nothing was written")

    def on_waiting(self, e: dict[str, Any]) -> None:
        self.out(f"{_label(e)}waiting: {e['text']}" if e["name"] else e["text"])

    def on_planned(self, e: dict[str, Any]) -> None:
        self.out(f"{e['items']} items: {e['make']} to make, {e['wrong']} wrong; nothing was made (dry run)")

    def on_end(self, e: dict[str, Any]) -> None:
        self.out(end_text(e))


def done_text(e: dict[str, Any]) -> str:
    """The line of a finished item."""
    where = f"{e['folder']}: {', '.join(e['files'])}"
    how = {
        "made": f"made in {e['seconds']:.1f} s",
        "replaced": f"made in {e['seconds']:.1f} s; replaced an earlier result",
        "there": "already there, not made again",
        "adopted": "already there, not made again; added to the manifest",
    }[e["state"]]
    return f"{where} ({how}, engine {e['engine']})"


def end_text(e: dict[str, Any]) -> str:
    """The last line of a batch."""
    parts = [
        f"{e[key]} {word}" for key, word in (("made", "made"), ("there", "already there"), ("failed", "failed"), ("left", "left")) if e[key]
    ]
    text = f"{', '.join(parts) or 'nothing to do'} ({e['seconds']:.1f} s)"
    return f"{text}\nreport: {e['report']}" if e.get("report") else text


def _label(e: dict[str, Any]) -> str:
    return f"{e['name']}: " if e.get("name") else ""
