"""python -m comfyui_sam3d.factory.cli"""

from . import main

if __name__ == "__main__":
    main()
