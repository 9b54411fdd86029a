"""A film as MP4 (H.264), through PyAV: the one format here that base doesn't have an encoder for. It comes with the layer `video`."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from ....contract.errors import SetupError

CODECS = ("libx264", "libopenh264", "mpeg4")  # the first that PyAV's FFmpeg has
# cpu-independent: without it x264 made other bytes of the same frames in 1 film of 100, on a processor with AVX-512.
_X264 = {"crf": "18", "preset": "medium", "x264-params": "cpu-independent=1"}


def need() -> None:
    """SetupError where PyAV isn't installed."""
    if importlib.util.find_spec("av") is None:
        raise SetupError(
            "MP4 needs the package av (PyAV), which isn't installed.",
            "Add it with: python install.py --layers video   (or choose turntable, an animated WebP).",
        )


def mp4(frames: Iterable[np.ndarray], rate: Fraction) -> bytes:
    """uint8 (H, W, 3) frames of one size, H and W even, `rate` a second -> the file. The same frames give the same bytes."""
    need()
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options={"fflags": "bitexact"}) as container:
        stream = None
        for pixels in frames:
            if stream is None:
                codec = next(name for name in CODECS if name in av.codecs_available)
                stream = container.add_stream(codec, rate=rate, options=_X264 if codec == "libx264" else {"q": "3"})
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.thread_count = 1  # more of them decide otherwise each time
            # Converted here: left to the encoder, the same frames gave other bytes in 3 of 100 runs.
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    return out.getvalue()
