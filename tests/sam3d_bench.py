"""The sam3d engine in this process, from tiny random weights: a Job that records and may interrupt, requests, and what two scenes have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfyui_sam3d.contract import PrepareRequest, ReconstructRequest, Sam3dOptions, Scene
from comfyui_sam3d.contract.record import content_key
from comfyui_sam3d.worker.cache import Cache
from comfyui_sam3d.worker.engines.sam3d.engine import Engine
from comfyui_sam3d.worker.job import Planned
from comfyui_sam3d.worker.weights.fake import write
from comfyui_sam3d.worker.weights.store import Store, open_store

OPTIONS = Sam3dOptions(steps=2, latent_steps=2)
EVERYTHING = {"point map", "picture", "structure", "latents", "decode", "clean-up", "texture"}
IMAGE = np.random.default_rng(7).integers(0, 255, (48, 64, 3), dtype=np.uint8)


class Recorder:
    """A Job: its steps, notes and plans. before: called with each step; what it raises, the engine meets."""

    def __init__(self, before: Callable[[str, int, int], None] = lambda stage, step, total: None) -> None:
        self.timings: dict[str, float] = {}
        self.steps: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.plans: list[list[Planned]] = []
        self._before = before

    @property
    def stages(self) -> set[str]:
        return {stage for stage, _, _ in self.steps}

    def plan(self, stages: Any, where: str = "") -> None:
        self.plans.append(list(stages))

    def step(self, stage: str, step: int, total: int) -> None:
        self.steps.append((stage, step, total))
        self._before(stage, step, total)

    def log(self, text: str, level: str = "info") -> None:
        self.notes.append(text)

    def preview(self, image: np.ndarray) -> None:
        pass


def tiny_store(folder: Path) -> Store:
    """Tiny random weights, written and opened."""
    write(folder, tiny=True, seed=0, report=lambda *args, **fields: None)
    return open_store(folder, torch.float32)


def an_engine(store: Store, folder: Path, *, limit: int = 10**9, memory: int = 0, device: str = "cpu") -> Engine:
    """On a GPU in half precision, as the engine itself would be opened there."""
    store = store if device == "cpu" else dataclasses.replace(store, dtype=torch.float16)
    return Engine(store, Cache(folder, limit=limit, memory=memory), torch.device(device))


def a_request(objects: int = 1, *, image: np.ndarray = IMAGE, own: dict[str, Any] | None = None, **fields: Any) -> ReconstructRequest:
    masks = np.zeros((3, 48, 64), bool)
    masks[0, 6:30, 4:28] = masks[1, 14:40, 34:60] = masks[2, 20:44, 8:30] = True
    fields = {"texture_size": 256, "face_budget": 600, "outputs": ("glb",), "sam3d": dataclasses.replace(OPTIONS, **(own or {})), **fields}
    return ReconstructRequest(image=image, masks=masks[:objects], engine="sam3d", **fields)


def a_picture(image: np.ndarray = IMAGE) -> PrepareRequest:
    return PrepareRequest(image, "sam3d")


def run(engine: Engine, request: ReconstructRequest) -> tuple[Scene, Recorder]:
    job = Recorder()
    return engine(request, job), job


def content(scene: Scene) -> str:
    """Of all objects: equal only where every bit is."""
    return content_key({"objects": scene.objects, "camera": scene.camera, "warnings": scene.warnings})
