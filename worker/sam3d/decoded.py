"""What the decoders make, as the contract's numpy values, still in the model's object frame: z up, the cube [-0.5, 0.5]."""

from __future__ import annotations

from ...contract.scene import Mesh, Splats
from .flexicubes import Surface
from .gaussians import Gaussians


def splats_of(splats: Gaussians) -> Splats:
    """Raw -> activated values, of any device."""
    parts = splats.positions(), splats.scales(), splats.rotations(), splats.opacities()[:, 0], splats.features_dc
    return Splats(*(part.float().cpu().contiguous().numpy() for part in parts))


def mesh_of(surface: Surface) -> Mesh:
    """Colours to 8 bits, opaque; the normal-map channels are dropped, as the original drops them."""
    colors = surface.vertices.new_ones(len(surface.vertices), 4)
    colors[:, :3] = surface.attributes[:, :3]
    return Mesh(
        vertices=surface.vertices.cpu().numpy(),
        faces=surface.faces.int().cpu().numpy().view("uint32"),
        vertex_colors=(colors * 255).round().byte().cpu().numpy(),
    )
