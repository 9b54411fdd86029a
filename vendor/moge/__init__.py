"""MoGe: a point map, a mask and a camera from one picture (Wang et al., "MoGe", 2024; "MoGe-2", 2025). What it is: README.md beside this.

    config        what a checkpoint's configuration may say, and the size of the transformers it may name
    backbone      DINOv2 without registers
    layers        what both versions' heads are made of, and what a network answers
    model         version 1: points up to scale and shift, and a mask
    model_v2      version 2: metric scale and normals too
    focal         focal length and shift from a point map; intrinsics
    infer         picture in, geometry out
    checkpoint    the published files -> these modules, key for key

Coordinates are OpenCV's (x right, y down, z forward). Knows nothing of SAM 3D, jobs or files of results.
"""
