"""What a job's row says, turned into a call of the Backend, and what comes back turned into files."""

from __future__ import annotations

import json
import os
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...contract import messages
from ...contract.backend import Backend, Reconstruction
from ...contract.errors import EmptyMaskError, InputError, MaskError, OutputError, ProtocolError, StorageError
from ...contract.frames import encode_frame, read_frame
from ...contract.request import ReconstructRequest
from ...contract.scene import Scene
from .. import output
from . import params, pictures
from .aside import pieces, released
from .store import Row
from .vault import Vault

SCENE = "scene.frame"  # the scene itself, beside its files: one message JobDone (docs/protocol.md), for client/remote.py


@dataclass
class Work:
    """One of both: a job that can be watched, or a plain call that answers with files (export)."""

    begin: Callable[[Backend], Reconstruction] | None = None
    call: Callable[[Backend], dict[str, bytes]] | None = None
    about: dict[str, Any] | None = None  # for meta.json
    holds: weakref.ref[np.ndarray] | None = None  # of what is sent, numbers that live as long as all

    def start(self, backend: Backend) -> Reconstruction:
        """`begin`, once. It is let go of, so that the pictures, hundreds of megabytes maybe, are in memory until they are sent and not until the job ends."""
        assert self.begin is not None
        begin, self.begin = self.begin, None
        return begin(backend)


def need(vault: Vault, row: Row) -> int:
    """Bytes that `load` takes at most, with what is sent to the worker. Raises NotFoundError where the row's files are gone."""
    if row["frame"]:
        return vault.path("frame", row["frame"]).stat().st_size if vault.has("frame", row["frame"]) else 0
    picture, behind = vault.meta("image", row["image"]), json.loads(row["params"]).get("back_image")
    pixels, count = picture["width"] * picture["height"], max(1, len(json.loads(row["masks"])))
    back = 0
    if behind is not None:
        other = vault.meta("image", behind)
        back = other["width"] * other["height"]
    decoded = 4 * back + 4 * pixels + 2 * count * pixels
    while_last = (pictures.PER_PIXEL * back, 4 * back + pictures.PER_PIXEL * pixels, decoded + 3 * pixels)  # is read: back, picture, mask
    return int(max(while_last))


def load(vault: Vault, row: Row) -> Work:
    """Reads and decodes what the job is made of. Raises an InputError or NotFoundError."""
    return _framed(vault, row) if row["frame"] else _pictured(vault, row)


def _pictured(vault: Vault, row: Row) -> Work:
    settings, names = json.loads(row["params"]), tuple(json.loads(row["names"]))
    behind = settings.get("back_image")
    back = None if behind is None else _rgba(vault, behind)  # first: what its decoding takes is gone before the masks come
    image, alpha = pictures.load_image(vault, row["image"])
    masks = json.loads(row["masks"])
    if masks:
        alpha = None  # says nothing beside masks
        hard, soft = _masks(vault, masks, image.shape[:2])
    elif alpha is not None:
        soft = alpha[None] if _has_edges(alpha) else None
        hard = (alpha >= 128 if (alpha >= 128).any() else alpha > 12)[None]  # a picture that is faint all over (smoke)
    else:
        raise MaskError("The picture has no transparency, and no mask was given.", "Send a mask.")
    if not all(mask.any() for mask in hard):
        raise EmptyMaskError("A mask selects nothing.")
    fields = params.record_fields(settings, back)
    request = ReconstructRequest(image=image, masks=hard, alpha=soft, names=names, **fields)
    return Work(begin=lambda backend: backend.reconstruct(request), about=request.parameters(), holds=_owner(request.masks))


def _owner_in(scene: Scene) -> weakref.ref[np.ndarray] | None:
    """The same of a scene that came in one frame."""
    for item in scene.objects:
        if item.mesh is not None:
            return _owner(item.mesh.vertices)
        if item.splats is not None:
            return _owner(item.splats.positions)
    return None


def _owner(array: np.ndarray) -> weakref.ref[np.ndarray]:
    """The array that the numbers belong to."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return weakref.ref(array)


def _masks(vault: Vault, ids: list[str], size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """bool (N, H, W), and uint8 (N, H, W) where one of them has soft edges. Made one after the other: together they may be as large as everything else."""
    hard, soft = np.empty((len(ids), *size), bool), None
    for at, id in enumerate(ids):
        mask = pictures.load_mask(vault, id)
        np.greater_equal(mask, 128, out=hard[at])
        if soft is None and _has_edges(mask):
            soft = np.empty(hard.shape, np.uint8)
            np.multiply(hard[:at], np.uint8(255), out=soft[:at])
        if soft is not None:
            soft[at] = mask
    return hard, soft


def _has_edges(mask: np.ndarray) -> bool:
    return bool(((mask > 0) & (mask < 255)).any())


def _rgba(vault: Vault, id: str) -> np.ndarray:
    image, alpha = pictures.load_image(vault, id)
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8) if alpha is None else alpha])


def read_message(path: Path) -> Any:
    """The message of a file that holds one frame. Raises ProtocolError."""
    with open(path, "rb", buffering=0) as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(8)
        if len(head) < 8 or struct.unpack("<Q", head)[0] != size - 8:  # before anything is made room for
            raise ProtocolError("The body isn't one frame.")
        file.seek(0)
        found = read_frame(file.readinto)
    assert found is not None
    return messages.from_wire(*found, messages.FROM_CLIENT)


def _framed(vault: Vault, row: Row) -> Work:
    message = read_message(vault.path("frame", row["frame"]))
    if isinstance(message, messages.Reconstruct):
        request = message.request
        return Work(begin=lambda backend: backend.reconstruct(request), about=request.parameters(), holds=_owner(request.masks))
    if isinstance(message, messages.Prepare):
        wanted = message.request
        return Work(begin=lambda backend: backend.prepare(wanted), about={"engine": wanted.engine}, holds=_owner(wanted.image))
    if isinstance(message, messages.Export):
        given, formats, options = [message.scene], message.formats, message.options
        return Work(
            call=lambda backend: backend.export(given.pop(), formats, options),
            about={"formats": list(formats)},
            holds=_owner_in(message.scene),
        )
    raise InputError(f"A {type(message).__name__} is no piece of work.")


def write_scene(place: output.Place, scene: Scene, about: dict[str, Any], key: str, seconds: float) -> dict[str, Any]:
    """Write a scene and its files; returns its meta.json. Raises StorageError."""
    bare = messages.JobDone(0, scene.replace(files={}))
    files: dict[str, Any] = {name: released(pieces(data)) for name, data in scene.files.items()}
    files[SCENE] = released(encode_frame(*messages.to_wire(bare)))
    meta = {"name": place.name, "key": key, "parameters": about, **output.described(scene), "seconds": round(seconds, 3)}
    return _written(place, files, meta)


def write_files(place: output.Place, files: dict[str, bytes], about: dict[str, Any], key: str, seconds: float) -> dict[str, Any]:
    """The same for an export, which has files and no scene."""
    return _written(place, files, {"name": place.name, "key": key, "parameters": about, "seconds": round(seconds, 3)})


def _written(place: output.Place, files: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**meta, "files": output.write_result(place, files, meta, owner="server")}
    except OutputError as problem:  # its words name a folder of this machine, and this error is the caller's to read
        raise StorageError(
            "The result can't be written.", "Look at the disk of the server's data folder.", detail=str(problem)
        ) from problem


def summary(meta: dict[str, Any]) -> dict[str, Any]:
    """What a job says of its result: meta.json without what the job says already."""
    kept = ("engine", "seed", "objects", "camera", "warnings", "timings", "seconds", "files")
    return {key: meta[key] for key in kept if key in meta}
