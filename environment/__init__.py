"""Builds `_env/`, the worker's own Python environment, and starts the command line inside it.

`../install.py` (what ComfyUI-Manager runs) and `../sam3d.py` (the launcher) are two thin doors to this folder. Everything here is
standard library and runs on Python 3.9 to 3.13, in whatever Python calls it; nothing here is imported by nodes/, client/ or worker/.

    journal.py   what an `_env/` says of itself, and whether that is still true (all that a warm start needs)
    build.py     the transaction: lock, build, audit, journal last, the old environment back on failure
    uv.py        finding uv, what of the caller's environment reaches it, running it, explaining its failures
    torch_build.py  where the CPU build of torch comes from
    launch.py    which layers a command needs, and the step into `_env/`
    *.txt        the layers (base, model, dev), the pinned uv, the index that holds torch's CPU builds

README.md in this folder is for people.
"""
