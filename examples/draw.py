"""Draws every example picture: `python examples/draw.py [NAME ...] [--out FOLDER]`. The same pixels each time (tests/test_examples.py checks it)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))  # the brushes lie beside this script, which is run as a file and belongs to no package

import _camp  # noqa: E402
import _folk  # noqa: E402
import _garden  # noqa: E402
import _meat  # noqa: E402
import _photo  # noqa: E402
import _pixels  # noqa: E402
import _tools  # noqa: E402
from _brush import Canvas  # noqa: E402

Picture = NDArray[np.uint8]


def _single(name: str, make: Callable[[], Canvas | Picture]) -> Callable[[], dict[str, Picture]]:
    def draw() -> dict[str, Picture]:
        made = make()
        return {f"{name}.png": made.finish() if isinstance(made, Canvas) else made}

    return draw


def _carrot() -> dict[str, Picture]:
    picture, mask = _garden.carrot()
    return {"carrot.png": picture, "carrot_mask.png": mask}


def _campsite() -> dict[str, Picture]:
    picture, masks = _photo.campsite()
    return {"campsite/image.png": picture, **{f"campsite/{k}.png": mask for k, mask in enumerate(masks)}}


# name -> a function that gives the files it makes: path inside examples/ -> uint8 (H, W), (H, W, 3) or (H, W, 4)
DRAWINGS: dict[str, Callable[[], dict[str, Picture]]] = {
    **{f.__name__: _single(f.__name__, f) for f in (_meat.steak, _meat.ribs, _meat.drumstick, _meat.sausage, _meat.skewer)},
    **{f.__name__: _single(f.__name__, f) for f in (_garden.corn, _garden.pepper, _garden.mushroom, _garden.onion_ring, _garden.egg)},
    **{f.__name__: _single(f.__name__, f) for f in (_camp.plate, _camp.log, _camp.campfire, _camp.flame)},
    **{f.__name__: _single(f.__name__, f) for f in (_tools.sticks, _tools.grill_fork, _tools.tongs, _tools.marshmallow)},
    **{f.__name__: _single(f.__name__, f) for f in (_folk.camper, _folk.camp_dog)},
    **{f.__name__: _single(f.__name__, f) for f in (_pixels.pixel_log, _pixels.pixel_campfire)},
    "carrot": _carrot,
    "campsite": _campsite,
}


def draw(names: list[str]) -> Iterator[tuple[str, Picture]]:
    """(path, picture) of each file of the named drawings, one after the other."""
    for name in names:
        yield from DRAWINGS[name]().items()


def save(path: Path, picture: Picture) -> None:
    """Write a PNG, small, aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    Image.fromarray(picture).save(aside, format="PNG", optimize=True)
    aside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(DRAWINGS)} (default: all)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this one)")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(DRAWINGS))
    if unknown:
        parser.error(f"no drawing is called {', '.join(unknown)}; there are: {', '.join(DRAWINGS)}")
    for path, picture in draw(options.names or list(DRAWINGS)):
        save(options.out / path, picture)
        print(f"{path:<22} {picture.shape[1]} x {picture.shape[0]}  {(options.out / path).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
