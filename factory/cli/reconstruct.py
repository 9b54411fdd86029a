"""`reconstruct`: one picture -> `<out>/<name>/` with its files and a meta.json."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...client import open_backend
from ...contract.backend import Event
from ...contract.errors import JobCancelled, MaskError, Sam3dError
from ...contract.names import safe_filename
from ...contract.pairing import nfc_stem
from ...contract.request import FORMATS
from .. import automask, output
from ..events import OK, done_fields, error_event, exit_code, job_event
from ..inputs import MaskOptions, check_name, check_picture, make_request, mask_files
from ..jobs import Interrupts, watch
from ..maker import Maker
from ..settings import check_pointmap, check_settings, unused
from .show import Show


def run(
    show: Show,
    image: Path,
    *,
    masks: Sequence[Path],
    mask_source: Path | None,
    out: Path,
    name: str | None,
    settings: dict[str, Any],
    options: MaskOptions,
    force: bool,
) -> int:
    """The command; returns its exit code. Says everything through `show`."""
    named = check_name(name) if name is not None else safe_filename(nfc_stem(image))
    with show, Interrupts() as interrupts:
        show.event("start", command="reconstruct", image=str(image), out=str(out))
        try:
            _run(show, image, masks, mask_source, output.Place(out, named), settings, options, force, interrupts)
            return OK
        except JobCancelled as problem:
            show.event("cancelled", name=named)
            return exit_code(problem)
        except Sam3dError as problem:
            show.event("failed", name=named, error=error_event(problem), attempt=1, retry=False)
            return exit_code(problem)


def _run(
    show: Show,
    image: Path,
    masks: Sequence[Path],
    mask_source: Path | None,
    place: output.Place,
    settings: dict[str, Any],
    options: MaskOptions,
    force: bool,
    interrupts: Interrupts,
) -> None:
    start = time.perf_counter()
    check_picture(image)
    automask.check_method(options.auto)
    check_settings(settings)
    check_pointmap(settings)
    if masks and mask_source is not None:
        raise MaskError("--mask and --masks are both given.", "Give one of them.")
    if options.auto and (masks or mask_source is not None):
        raise MaskError("--auto-mask is given together with a mask.", "Leave one of them out.")
    files = list(masks) if mask_source is None else mask_files(mask_source, image)
    request = make_request(image, files, name=place.name, settings=settings, options=options)
    key = request.content_key()
    there = output.complete_meta(place)
    if there is not None and there.get("key") == key and not force and Maker().made(there, request.engine):
        show.event("done", **done_fields(place, there, "there", 0.0))
        return
    output.check_writable(place.out)
    output.check_free(place, [FORMATS[kind][0] for kind in request.outputs])
    output.remove_leftovers(place.out, "one", older_than=3600)

    def on_event(event: Event) -> None:
        job_event(show.event, place.name, event)

    with open_backend() as backend:
        scene = watch(backend.reconstruct(request), on_event, lambda: interrupts.count > 0)
    if interrupts.count:  # it was faster than the cancellation; nothing has been written yet
        raise JobCancelled("The job was cancelled.")
    meta, state = output.write_scene(place, scene, request, key=key, source=output.source_of(image, files), since=start)
    if idle := unused(settings, scene.engine):
        show.event("log", name=place.name, level="warning", text=idle)
    show.event("done", **done_fields(place, meta, state, meta["seconds"]))
