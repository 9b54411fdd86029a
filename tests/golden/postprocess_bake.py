"""How golden/postprocess's texture_bake is replayed: the original's two ways of baking, from pictures with known cameras.

There v points up and the pictures are used bottom row first; here v is turned at the beginning instead. Texels without a sample are
inpainted by Telea's method, which is OpenCV's; the product fills them with the nearest colour.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from comfyui_sam3d.worker.geometry.texture.atlas import covered
from comfyui_sam3d.worker.geometry.texture.fit import bilinear, fit, scatter
from comfyui_sam3d.worker.ops.cameras import Cameras
from comfyui_sam3d.worker.ops.rasterise import interpolate, rasterise

COVERED, INPAINTED = 1, 3  # of 255, `fast`
MEAN, MOST = 2.0, 8  # of 255, `opt`


def texture_bake(x, meta):
    size, resolution = int(meta["texture_size"]), int(meta["resolution"])
    lens = x["in.intrinsics"] * resolution
    cameras = Cameras(x["in.extrinsics"], torch.stack([lens[:, 0, 0], lens[:, 1, 1]], 1), lens[:, :2, 2], resolution, resolution)
    faces, uvs = x["in.faces"].long(), x["in.uvs"].clone()
    uvs[:, 1] = 1 - uvs[:, 1]
    fragments = rasterise(cameras.project(x["in.vertices"]), faces, resolution, resolution, near=0.1)
    places, seen = interpolate(uvs, faces, fragments), fragments.covered
    observed = x["in.observations"].float() / 255
    wrong = []

    used = seen & x["in.masks"][:1]  # the first view's mask for all of them, as the original has it
    texture, known = scatter(places[used] * size - 0.5, observed[used], size, size)
    difference = (inpainted(texture, known).int() - x["out.fast"].int()).abs().amax(-1)
    if difference[known].max() > COVERED or int(difference.max()) > INPAINTED:
        wrong.append(f"fast differs by {int(difference[known].max())} of 255 on covered texels, by {int(difference.max())} on all")

    # The outermost texels' centres are the texture's ends. Where there is no mesh, the original's pixels ask for its corner (0, 0).
    masks = x["in.masks"]
    places = torch.where(seen[..., None], places, places.new_tensor([0.0, 1.0]))
    lookups = [bilinear(places[view][masks[view]] * (size - 1), size, size) for view in range(len(masks))]
    colors = [observed[view][masks[view]] for view in range(len(masks))]
    order = x["in.opt_view_order"].tolist()
    fitted = fit(torch.zeros(size, size, 3), lookups, colors, order, int(meta["steps"]), float(meta["lambda_tv"]))
    difference = (inpainted(fitted, covered(uvs[faces], size, size)).int() - x["out.opt"].int()).abs()
    if difference.float().mean() > MEAN or difference.max() > MOST:
        wrong.append(f"opt differs by {float(difference.float().mean()):.2f} of 255 on average, by {int(difference.max())} at most")
    return wrong


def inpainted(texture: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """uint8, truncated as the original does; Telea with radius 3 where nothing is known."""
    pixels = (texture * 255).clamp(0, 255).to(torch.uint8).numpy()
    return torch.from_numpy(cv2.inpaint(pixels, (~known.numpy()).astype(np.uint8), 3, cv2.INPAINT_TELEA))


KINDS = {"texture_bake": texture_bake}
