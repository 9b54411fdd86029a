"""SAM 3D Objects in plain PyTorch, from the published facts; one file per part that a paper would name.

    preprocess    picture, mask and point map -> the six conditioning inputs, and the normaliser's scale and shift
    dino          DINOv2 with registers, and the wrapper that picks its tokens
    point_patch   the point map's embedder
    fuser         the six inputs -> one sequence of context tokens
    flow          the two-stream flow transformer of stage 1 (shape, pose), the plain twin
    flow_cached   the same network with all that is constant computed once
    sampler       time grids, guidance, Euler steps, noise
    occupancy     shape latent -> occupancy grid -> voxel coordinates
    pose          pose latents -> rotation, translation, scale
    structure     stage 1 assembled: all objects of a picture at once
    checkpoint    the official files -> these modules, key for key

Knows nothing of jobs, files of results or HTTP.
"""
