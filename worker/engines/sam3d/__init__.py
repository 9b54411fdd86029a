"""The sam3d engine: Meta's SAM 3D Objects in plain PyTorch (docs/sam3d.md).

engine      request in, scene out: the stages, each looked up before it is computed
picture     what depends on the picture alone, and can be prepared
mesh        latents -> the mesh that people get
hands       several objects finished at a time, while others are sampled
kept        results of stages as entries of the cache
settings    what quality and options mean
voxels      the first picture of an object
"""
