"""`batch`: a folder of pictures -> a folder of results, or with --dry-run the table of what would be done."""

from __future__ import annotations

import sys
from typing import Any

from ...contract.errors import Sam3dError
from .. import output
from ..batch import BatchOptions
from ..batch.ledger import Ledger, is_tried_again
from ..batch.plan import Item, make_plan, request_of, stamp_of
from ..events import OK, USAGE, error_event
from ..jobs import Interrupts
from ..maker import Maker
from .show import JsonLines, Show


def run(show: Show, options: BatchOptions) -> int:
    """The command; returns its exit code. Raises a Sam3dError where the batch can't begin."""
    from ..batch.run import run as run_batch

    with show, Interrupts() as interrupts:
        return run_batch(options, show.event, interrupts)


def dry_run(show: Show, options: BatchOptions) -> int:
    """Reads every picture and mask and says what a run would do with it; makes and writes nothing. 0, or 2 where an item is wrong."""
    options.check()
    ledger = Ledger(options.out)
    maker = Maker(here=options.executor == "local")
    rows = [_row(item, options, ledger, maker) for item in make_plan(options, ledger.names())]
    wrong = [row for row in rows if row["error"]]
    if isinstance(show, JsonLines):
        for row in rows:
            show.event("plan", **row)
    elif type(show) is not Show:
        _print_table(rows)
    for row in wrong if not isinstance(show, JsonLines) else ():
        show.event("failed", name=row["name"], error=row["error"], attempt=0, retry=False)
    code = USAGE if wrong else OK
    todo = sum(row["state"] == "make" for row in rows)
    show.event("planned", items=len(rows), make=todo, wrong=len(wrong), exit=code)
    return code


def _row(item: Item, options: BatchOptions, ledger: Ledger, maker: Maker) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": item.name,
        "image": item.identity[0],
        "masks": list(item.identity[1]),
        "rule": item.pair.rule,
        "objects": None,
        "size": None,
        "state": "wrong",
        "error": None,
    }
    try:
        request = request_of(item, options)
        row["objects"], row["size"] = len(request.masks), [request.image.shape[1], request.image.shape[0]]
        row["state"] = _state(item, options, ledger, maker, request.content_key())
    except Sam3dError as problem:
        row["error"] = error_event(problem)
    return row


def _state(item: Item, options: BatchOptions, ledger: Ledger, maker: Maker, key: str) -> str:
    """make, there, or failed or quarantined (earlier, and not to be tried again)."""
    if options.force:
        return "make"
    meta = output.complete_meta(output.Place(options.out, item.name, options.flat))
    if meta is not None and meta.get("key") == key and maker.made(meta, item.engine):
        return "there"
    entry = ledger.same(item, stamp_of(item, options))
    return "make" if entry is None or is_tried_again(entry, options) else str(entry["status"])


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("name", "picture", "masks", "rule", "objects", "size", "state"):
        table.add_column(title, overflow="fold")
    for row in rows:
        size = "x".join(map(str, row["size"])) if row["size"] else ""
        state = row["error"]["code"] if row["error"] else row["state"]
        cells = (row["name"], row["image"], " ".join(row["masks"]), row["rule"], str(row["objects"] or ""), size, state)
        table.add_row(*(Text(cell) for cell in cells))  # Text: a file name is no markup
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
