"""Draws docs/contact_sheet.jpg: every example, made by the draft engine, from four sides. `python docs/make_contact_sheet.py [--out FILE]`

Presets are the engine's own guess except where USUAL says what a person would choose; the label tells which.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from comfyui_sam3d.contract import DraftOptions, ReconstructRequest, Scene
from comfyui_sam3d.contract.automask import border_mask
from comfyui_sam3d.worker.engines.draft import reconstruct
from comfyui_sam3d.worker.geometry.render import MeshRenderer, orbit_cameras
from comfyui_sam3d.worker.job import QuietJob
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
USUAL = {"camper": "figure", "camp_dog": "figure", "pepper": "ball", "egg": "slab", "mushroom": "ball", "campsite": "prop", "plate": "slab"}
VIEWS = (("front", 0), ("three-quarter", 45), ("side", 90), ("back", 180))
TILE, LABEL, COLUMNS, GAP = 144, 20, 3, 10
INK, PAPER = (40, 44, 48), (224, 226, 222)
LARGEST = 600_000  # bytes


def requests() -> Iterator[tuple[str, ReconstructRequest]]:
    """(name, request) of every example: pictures with alpha, with a mask beside them, on a plain background; folders with several masks."""
    for path in sorted((ROOT / "examples").iterdir()):
        options = DraftOptions(preset=USUAL.get(path.stem, "auto"))
        if path.is_dir() and (path / "image.png").exists():
            masks = np.stack([np.asarray(Image.open(p).convert("L")) >= 128 for p in sorted(path.glob("[0-9]*.png"))])
            yield path.name, ReconstructRequest(np.asarray(Image.open(path / "image.png").convert("RGB")), masks, draft=options)
        elif path.suffix == ".png" and not path.stem.endswith("_mask"):
            picture = Image.open(path)
            image = np.asarray(picture.convert("RGB"))
            beside = path.with_name(f"{path.stem}_mask.png")
            if beside.exists():
                alpha = np.asarray(Image.open(beside).convert("L"))
            elif picture.mode == "RGB":
                alpha = np.where(border_mask(image), np.uint8(255), np.uint8(0))
            else:
                alpha = np.asarray(picture.convert("RGBA"))[..., 3]
            soft = None if ((alpha == 0) | (alpha == 255)).all() else alpha[None]
            yield path.stem, ReconstructRequest(image, (alpha >= 128)[None], alpha=soft, draft=options)


def block(name: str, scene: Scene, preset: str) -> Image.Image:
    """One example: its four views beside each other, its label below."""
    picture = Image.new("RGB", (TILE * len(VIEWS), TILE + LABEL), PAPER)
    cameras = orbit_cameras(scene, [yaw for _, yaw in VIEWS], 10, width=TILE, height=TILE)
    renderer = MeshRenderer(scene)
    for i, camera in enumerate(cameras):
        view = Image.fromarray(renderer.render(camera, TILE, TILE, supersample=3))
        picture.paste(view, (i * TILE, 0), view)
    text = f"{name}   preset {preset}"
    ImageDraw.Draw(picture).text((6, TILE + 2), text, fill=INK, font=ImageFont.load_default(13))
    return picture


def sheet(blocks: list[Image.Image]) -> Image.Image:
    rows = -(-len(blocks) // COLUMNS)
    width, height = blocks[0].size
    out = Image.new("RGB", (COLUMNS * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for i, item in enumerate(blocks):
        column, row = i % COLUMNS, i // COLUMNS
        out.paste(item, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return out


def encoded(picture: Image.Image) -> bytes:
    """A JPEG of at most LARGEST bytes, as good as that allows."""
    for quality in range(90, 20, -5):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= LARGEST:
            break
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "contact_sheet.jpg")
    out = parser.parse_args().out
    blocks = []
    for name, request in requests():
        scene = reconstruct(request, QuietJob())
        parameters = scene.objects[0].info["parameters"]
        chosen = parameters["preset"] + ("" if request.draft.preset != "auto" else " (guessed)")
        blocks.append(block(name, scene, chosen))
        print(f"{name}: {chosen}, {sum(len(o.mesh.faces) for o in scene.objects)} faces")
    aside = out.with_name(out.name + ".part")
    aside.write_bytes(encoded(sheet(blocks)))
    os.replace(aside, out)
    print(f"{len(blocks)} examples in {out.name}, {out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
