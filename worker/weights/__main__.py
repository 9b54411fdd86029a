"""`python -m ....worker.weights VERB [--folder=DIR]`: what `sam3d weights` runs in the worker's interpreter. JSON lines on stdout (docs/weights.md):

{"event": "file", "name", "state", "bytes", "text"}      {"event": "bytes", "name", "what", "done", "total"}      {"event": "log", "name", "level", "text"}
{"event": "engines", "auto", "weights"}      what `auto` is, and a digest of the weights: asked by the batch, shown by nobody
{"event": "failed", "error": {...}}                      {"event": "weights", "command", "folder", "ok", "text"}  the last one of a run that ends well
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...contract.errors import SetupError
from ..tool import Report, run
from . import layout, locate


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, 1 (something is wrong with the files), or an error's."""
    parser = argparse.ArgumentParser(prog="weights")
    parser.add_argument("verb", choices=("status", "fetch", "verify", "convert", "fake", "engines"))
    parser.add_argument("--folder", help="default: where they are found, or belong")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args(argv)
    return run(lambda report: _engines(report) if given.verb == "engines" else _do(given, report))


def _engines(report: Report) -> bool:
    auto, digest = locate.identity()
    report("engines", auto=auto, weights=digest)
    return True


def _do(given: argparse.Namespace, report: Report) -> bool:
    if given.verb == "fake":
        from .fake import write

        folder, ok = Path(given.folder), True
        write(folder.absolute(), tiny=given.tiny, seed=given.seed, report=report)
        text = f"random weights in {folder}; use them with SAM3D_WEIGHTS={folder.absolute()}"
    elif given.verb == "fetch":
        folder, ok = locate.target(given.folder), True
        elsewhere = _elsewhere(given.folder)
        if elsewhere is not None:
            folder, text = elsewhere, "everything is there already; name a folder with --folder to have it there too"
        else:
            from .fetch import fetch

            fetched = fetch(folder, report)
            from . import config

            config.architecture_of(folder)
            text = f"{len(fetched) or 'no'} file{'' if len(fetched) == 1 else 's'} fetched; next: python sam3d.py weights convert (once, for a fast start)"
    elif given.verb == "status":
        from .status import status

        folder = locate.nearest(given.folder)
        ok = status(folder, report)
        looked = ", ".join(str(path) for path in dict.fromkeys(locate.places(given.folder)))
        random = "; these are random weights (sam3d weights fake)" if (folder / layout.FAKE_FILE).is_file() else ""
        text = f"the sam3d engine can run{random}" if ok else f"not whole: type python sam3d.py weights fetch. Looked in {looked}"
        lacking = locate.packages_missing()
        if ok and lacking:
            ok, text = False, f"whole{random}, but the sam3d engine lacks {', '.join(lacking)}: type python install.py --layers model"
    elif given.verb == "verify":
        from .verify import verify

        folder = locate.nearest(given.folder)
        ok = verify(folder, report)
        text = "everything is as it should be" if ok else "something is wrong: see above"
    else:
        from .convert import convert

        folder, ok = locate.find(given.folder), True
        made = convert(folder, report, again=given.again)
        text = f"{len(made) or 'nothing'} converted"
    report("weights", command=given.verb, folder=str(folder), ok=ok, text=text)
    return ok


def _elsewhere(named: str | None) -> Path | None:
    """A folder that has everything and isn't the one that would be filled: the hub's cache, mostly."""
    try:
        found = locate.find(named)
    except SetupError:
        return None
    whole = not layout.missing(found, all_networks=True) and locate.find_moge(found) is not None
    return found if whole and named is None and found != locate.target() else None


if __name__ == "__main__":
    sys.exit(main())
