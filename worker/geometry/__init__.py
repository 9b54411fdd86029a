"""Meshes, splats and scenes as geometry: file writers (`encode`), the one frame (`frames`), software renderers (`render`).

Knows nothing of networks or jobs beyond `Job.step`. Needs numpy; Pillow and scipy only where pictures are made.
"""

from __future__ import annotations

from .encode import encode, ready
from .files.splat_ply import read_splat_ply

__all__ = ["encode", "read_splat_ply", "ready"]
