"""The isolated process: `python -m comfyui_sam3d.worker`, spoken to over its stdin and stdout (docs/protocol.md)."""
