"""A worker with the real draft engine that writes each job's name down as it begins, and dies in the middle of one with the seed 666. For the executors' tests.

SAM3D_WORKER_COMMAND="python tests/poison_worker.py JOURNAL"
"""

from __future__ import annotations

import os
import signal
import sys

POISON = 666

if __name__ == "__main__":
    from comfyui_sam3d.worker.channel import claim_stdio

    channel = claim_stdio()
    from comfyui_sam3d.contract.request import ReconstructRequest
    from comfyui_sam3d.contract.scene import Scene
    from comfyui_sam3d.worker.engines.draft import reconstruct
    from comfyui_sam3d.worker.geometry import encode
    from comfyui_sam3d.worker.job import Job
    from comfyui_sam3d.worker.loop import serve

    def engine(request: ReconstructRequest, job: Job) -> Scene:
        journal = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(journal, f"{request.names[0]}\n".encode())
        os.close(journal)
        if request.seed == POISON:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return reconstruct(request, job)

    sys.exit(serve(channel, {"draft": lambda: engine}, encode))
