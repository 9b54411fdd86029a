"""The sam3d engine: Meta's SAM 3D Objects in plain PyTorch (docs/sam3d.md).

engine      request in, scene out: the stages, each looked up before it is computed
settings    what quality and options mean
mesh        the decoder's surface -> the mesh that people get
voxels      the first picture of an object
"""
