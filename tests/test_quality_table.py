"""docs/sam3d.md tells what each quality changes: its table against the code, cell by cell."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.request import QUALITIES, ReconstructRequest
from comfyui_sam3d.worker.engines.sam3d.settings import Settings, settings_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "sam3d.md"


def table() -> dict[str, dict[str, str]]:
    """quality -> row -> cell, of the section `Quality`."""
    section = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (quality,) = [part for part in section if part.startswith("Quality")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in quality.splitlines() if line.startswith("|")]
    head, _, *body = rows
    return {name.strip("`"): {row[0]: row[i] for row in body} for i, name in enumerate(head) if i}


def in_effect(quality: str) -> Settings:
    request = ReconstructRequest(image=np.zeros((2, 2, 3), np.uint8), masks=np.eye(2, dtype=bool)[None], quality=quality)  # type: ignore[arg-type]
    return settings_of(request)


def test_it_has_every_quality_and_row() -> None:
    assert tuple(table()) == QUALITIES
    assert set(table()["standard"]) == {"stage 1", "stage 2", "splats for each voxel", "texture, faces", "UV charts"}


@pytest.mark.parametrize("quality", QUALITIES)
def test_each_cell_is_what_the_code_does(quality: str) -> None:
    cells, real = table()[quality], in_effect(quality)
    for cell, sampler in ((cells["stage 1"], real.structure), (cells["stage 2"], real.latents)):
        assert cell.startswith(f"{sampler.steps} steps"), cell
        assert ("shortcut" in cell) == sampler.shortcut, cell
        for said in re.findall(r"guidance (\d+)", cell):
            assert float(said) == sampler.guidance and not sampler.shortcut, cell
        if "first half" in cell:
            assert sampler.interval == (0.0, 500.0), cell
    assert cells["splats for each voxel"] == str(real.splats_per_voxel)
    assert cells["texture, faces"] == f"{real.texture_size}, {real.face_budget:,}"
    assert cells["UV charts"].startswith({"box": "box charts", "auto": "xatlas"}[real.unwrap])


def test_standard_samples_as_released() -> None:
    """25 steps each, guidance 7 and 1 on t <= 0.5, 32 splats: the released configuration (spec: stage1.md and stage2.md)."""
    real = in_effect("standard")
    assert (real.structure.steps, real.structure.guidance, real.structure.shortcut) == (25, 7.0, False)
    assert (real.latents.steps, real.latents.guidance, real.splats_per_voxel) == (25, 1.0, 32)


@pytest.mark.parametrize("field", ["steps", "guidance", "latent_steps", "latent_guidance", "splats_per_voxel", "few_step"])
def test_what_is_given_wins_over_the_quality(field: str) -> None:
    from comfyui_sam3d.contract.request import Sam3dOptions

    value = {"splats_per_voxel": 4, "few_step": True}.get(field, 3)
    request = ReconstructRequest(
        image=np.zeros((2, 2, 3), np.uint8), masks=np.eye(2, dtype=bool)[None], quality="best", sam3d=Sam3dOptions(**{field: value})
    )
    facts = settings_of(request).facts()
    assert facts[field] == value
    usual = in_effect("best").facts()
    moved = {name for name in facts if facts[name] != usual[name]}
    assert moved == ({"few_step", "steps", "guidance"} if field == "few_step" else {field})
