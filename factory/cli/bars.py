"""Bars on a terminal: one for each job under way, one for the whole batch, the lines of finished items above them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .show import Lines


class Bars(Lines):
    """As Lines, with bars for what is under way. rich is given plain text only: a file name is no markup."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._errors = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._jobs: dict[str, TaskID] = {}
        self._whole: TaskID | None = None
        self._over = self._items = 0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def out(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def err(self, text: str) -> None:
        if self._errors.is_terminal:
            self._console.print(text, style="yellow" if "warning" in text else "red", soft_wrap=True)
        else:
            super().err(text)

    def on_start(self, e: dict[str, Any]) -> None:
        super().on_start(e)
        if "items" in e:
            self._items = e["items"]
            self._whole = self._progress.add_task("all", total=self._items, stage=f"0 of {self._items}")

    def on_item(self, e: dict[str, Any]) -> None:
        self._bar(e["name"])

    def on_progress(self, e: dict[str, Any]) -> None:
        self._progress.update(self._bar(e["name"]), completed=e["fraction"], stage=e["stage"])

    def on_done(self, e: dict[str, Any]) -> None:
        self._finish(e["name"])
        super().on_done(e)

    def on_failed(self, e: dict[str, Any]) -> None:
        self._finish(e.get("name"), whole=not e.get("retry"))
        super().on_failed(e)

    def on_cancelled(self, e: dict[str, Any]) -> None:
        self._finish(e["name"], whole=False)
        super().on_cancelled(e)

    def _bar(self, name: str) -> TaskID:
        if name not in self._jobs:
            self._jobs[name] = self._progress.add_task(name, total=1.0, stage="")
        return self._jobs[name]

    def _finish(self, name: str | None, *, whole: bool = True) -> None:
        if name in self._jobs:
            self._progress.remove_task(self._jobs.pop(name))
        if whole and self._whole is not None:
            self._progress.advance(self._whole)
            self._over += 1
            self._progress.update(self._whole, stage=f"{self._over} of {self._items}")
