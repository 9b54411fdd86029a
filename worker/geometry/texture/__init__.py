"""Texture baking in UV space: an unwrapped, decimated mesh takes its colours from the object's splats. Needs torch; xatlas where it is
installed.

unwrap.py      UVs: xatlas in a child process, or boxes.py
atlas.py       which point of the surface each texel stands for
direct.py      its colour from the Gaussians around it (nearest.py finds them)
multiview.py   its colour from rendered views; fit.py fits texels to pictures, as the original does
padding.py     what lies between the charts
bake.py        all of it, in order
"""

from __future__ import annotations

from .bake import Baked, BakeOptions, bake

__all__ = ["BakeOptions", "Baked", "bake"]
