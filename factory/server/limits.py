"""Every limit of the server in one place. `GET /api/v1/info` shows them, `sam3d serve` has options for those that differ from site to site."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    max_body: of an uploaded picture or mask. max_json: of any other call's body. max_frame: of a request in the worker's own form (client/remote.py).
    max_pixels, max_side: of a picture, looked up in its header. max_mask_pixels: of all masks of a job together; soft ones take two bytes for each.
    memory: for pictures of calls and jobs, while they are decoded, written and sent to workers, all workers together. max_connections: open at once; fewer where the system
    lets the process open too few files (descriptors.py). max_uploads: bodies that are received at once. max_segments: segmentations of one
    client, under way or waiting. body_silence: without a byte of a body that was announced. body_time: for a whole body. head_time: for a request's head.
    answer_silence: for a client that takes nothing of its answer. attempts: at one job. job_time: for one attempt. keep_jobs: after the end. keep_files:
    pictures and masks that no job refers to. quota: of all files; None: what the disk has, less `reserve`.
    """

    max_body: int = 32 * MIB
    max_json: int = 4 * MIB
    max_frame: int = 256 * MIB
    max_pixels: int = 40_000_000
    max_side: int = 16384
    max_masks: int = 32
    max_mask_pixels: int = 200_000_000
    memory: int = 700_000_000
    max_connections: int = 800
    max_uploads: int = 8
    max_segments: int = 4
    max_queue: int = 1000
    max_batch: int = 500
    max_sync: int = 8
    body_silence: float = 20.0
    body_time: float = 300.0
    head_time: float = 10.0
    answer_silence: float = 60.0
    attempts: int = 2
    job_time: float = 1800.0
    keep_jobs: float = 30 * 86400.0
    keep_files: float = 86400.0
    quota: int | None = None
    reserve: int = 512 * MIB
    idle_unload: float = 0.0  # a worker without work for so long is stopped, and its memory given back; 0: never
    log_lines: int = 200  # of one job
