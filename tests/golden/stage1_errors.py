"""golden/stage1/error_cases.json: bad and odd input, and what the original does with it. The file says how its pictures are constructed."""

from __future__ import annotations

import torch
from comfyui_sam3d.contract.errors import Sam3dError
from comfyui_sam3d.worker.sam3d import occupancy, preprocess


def error_cases(document):
    """error_cases.json: what the original does with bad input. Returns what we do otherwise, in words."""
    build, wrong = document["construction"], []
    for case in document["preprocess"]:
        where = f"{case['name']}/{case['entry']}"
        rgba, pointmap = _constructed(build, case)
        options = {"size": build["size"], "box_factor": build["box_size_factor"]}
        try:
            made = preprocess.preprocess(rgba, pointmap if case["entry"] == "ss" else None, **options)
        except Sam3dError as problem:
            if case["outcome"] != "exception" or not problem.hint:
                wrong.append(f"{where}: {problem}")
            continue
        if case["outcome"] == "exception":
            wrong.append(f"{where}: no error")
            continue
        have = {**made.inputs(), "pointmap_scale": made.scale, "pointmap_shift": made.shift}
        for name, want in case["result"].items():
            value = have[name]
            if isinstance(want, list):
                same = torch.allclose(value[0].double(), torch.tensor(want, dtype=torch.float64), rtol=1e-4, atol=1e-6, equal_nan=True)
            else:
                total = float(value.double().nan_to_num(nan=0.0).sum())
                same = list(value.shape) == want["shape"] and int(value.isnan().sum()) == want["nan_count"]
                same = same and abs(total - want["nan_ignoring_sum"]) <= 1e-4 * max(1.0, abs(want["nan_ignoring_sum"]))
            if not same:
                wrong.append(f"{where}: {name} is another")
    for case in document["occupancy"]:
        rows = torch.tensor(case["coords"], dtype=torch.int32).reshape(-1, 4)
        try:
            if case["name"].startswith("downsample"):
                made, factor = occupancy.halve(rows)
                same = made.tolist() == case["result"]["coords"] and factor == case["result"]["factor"]
            else:
                same = occupancy.prune(rows).tolist() == case.get("result")
        except Sam3dError:
            same = case["outcome"] == "exception"
        if not same:
            wrong.append(f"{case['name']}: another outcome")
    logits = torch.full((1, 1, 5, 5, 5), -1.0)
    logits[0, 0, 1, 2, 3], logits[0, 0, 2, 2, 2], logits[0, 0, 3, 3, 3] = 0.0, 1e-7, torch.nan
    if occupancy.occupied(logits).tolist() != document["threshold"]["coords"]:
        wrong.append("threshold: other voxels")
    return wrong


def _constructed(build, case):
    """The picture and point map that the document describes in words."""
    height, width = build["height"], build["width"]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rgb = torch.stack([(8 * x) % 256, (10 * y) % 256, (x + y) % 256], dim=-1).to(torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.bool)
    if (box := case["mask_rows_cols_inclusive"]) is not None:
        mask[box[0] : box[1] + 1, box[2] : box[3] + 1] = True
    z = 2 + 0.01 * x + 0.02 * y
    regular = torch.stack([-(x - width / 2) / width * z, -(y - height / 2) / width * z, z])
    pointmap = regular.clone()
    text = case["pointmap"]
    if text == "all NaN" or text.startswith("all NaN except"):
        pointmap[:] = torch.nan
        if "except" in text:
            pointmap[:, 10, 12] = regular[:, 10, 12]
    elif text == "all +inf":
        pointmap[:] = torch.inf
    elif text != "regular":
        pointmap[:, 8:16, 10:20] = torch.nan
    return preprocess.with_alpha(rgb, mask), pointmap
