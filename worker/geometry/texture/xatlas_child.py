"""xatlas in a process of its own: a mesh comes in on stdin, its charts go out on stdout.

Run by path and isolated (`python -I xatlas_child.py`), so it imports nothing of ours. Both ways speak .npy arrays one after the other:
in   settings float64 (3: seconds, texture size, padding), vertices float32 (V, 3), faces uint32 (F, 3)
out  source uint32 (V',), faces uint32 (F, 3), uvs float32 (V', 2), charts int32 (F,) (-1: xatlas left the face out)

It ends with its time limit even while xatlas holds the interpreter lock (a timer in C), and with its parent.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np

MAX_COST = 4.0  # xatlas' own 2 gives ten times as many charts on a smooth surface, for no better picture


def main() -> None:
    inbox, outbox = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to stderr
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(inbox.fileno(), os.O_BINARY)
        msvcrt.setmode(outbox.fileno(), os.O_BINARY)
    seconds, size, padding = read(inbox)
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    vertices, faces = read(inbox), read(inbox)
    end_with_parent(inbox)
    for array in charted(vertices, faces, int(size), int(padding)):
        np.lib.format.write_array(SimpleNamespace(write=outbox.write), array, allow_pickle=False)
    outbox.flush()
    os._exit(0)


def read(stream: BinaryIO) -> np.ndarray:
    """A bare `read` keeps numpy from seeking, which a pipe can't do."""
    array: np.ndarray = np.lib.format.read_array(SimpleNamespace(read=stream.read), allow_pickle=False)
    return array


def end_with_parent(inbox: BinaryIO) -> None:
    """The parent keeps its end of stdin open and writes nothing more: the next event there is its own end.

    On Linux that event is a signal whose default action ends this process, interpreter lock or not. Elsewhere a thread waits for it.
    """
    if sys.platform == "linux":
        import fcntl

        signal.signal(signal.SIGIO, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
        fcntl.fcntl(inbox, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(inbox, fcntl.F_SETFL, fcntl.fcntl(inbox, fcntl.F_GETFL) | os.O_ASYNC)
    # Also on Linux: it sees an end that came before the signal was armed.
    threading.Thread(target=lambda: (inbox.read(1), os._exit(0)), daemon=True).start()


def charted(vertices: np.ndarray, faces: np.ndarray, size: int, padding: int) -> tuple[np.ndarray, ...]:
    import xatlas

    charts, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_cost = MAX_COST
    pack.resolution, pack.padding = size, padding
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, faces)
    atlas.generate(charts, pack)
    source, new_faces, uvs = atlas.get_mesh(0)
    _, chart_of_vertex = atlas.get_mesh_vertex_assignment(0)
    return source, new_faces, uvs, chart_of_vertex[new_faces[:, 0]].astype(np.int32)


if __name__ == "__main__":
    main()
