"""Mesh clean-up: from the decoder's raw mesh to a closed one within a face budget. `clean` is the one call.

Needs torch (visibility is rasterised by worker/ops) and fast-simplification: the draft engine doesn't import it.
"""

from __future__ import annotations

from .clean import Cleaned, CleanOptions, RawMesh, clean

__all__ = ["CleanOptions", "Cleaned", "RawMesh", "clean"]
