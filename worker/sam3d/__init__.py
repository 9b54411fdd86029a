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

Stage 2, on the voxels that stage 1 found:

    sparse        a set of voxels and what is derived from it; layers on voxels
    latent_flow   the sparse flow transformer, the plain twin
    latent_flow_cached   the same network with all that is constant computed once
    latents       its conditioning, sampling, and the latents' scale
    decoder_torso    what the decoders begin with
    splat_decoder    latents -> splats; gaussians: their raw and activated values, a PLY's columns; scene_merge: several objects' in one scene
    mesh_decoder     latents -> cube features; flexicubes: those -> a triangle mesh; flexicubes_tables: its cases, from the rule
    decoded          what the decoders make, as the contract has it

Both:

    architecture  where these parts stand in the official files, and which of their weights are half precision
    networks      where they are between their uses: on the device, in main memory, in their files
    turns         whose turn it is on the device, where several threads work
    pipeline      the stages in a row

Knows nothing of jobs, files of results or HTTP.
"""
