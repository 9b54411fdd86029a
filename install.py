"""Builds `_env/`, the isolated environment that the worker runs in. ComfyUI-Manager runs this file; you can too, as often as you like.

    python install.py                      the layer `base`: the draft engine, the nodes' worker, the command line
    python install.py --layers base,model  more layers (base, model, video, server, dev; see environment/README.md)
    python install.py --rebuild            from nothing

Nothing is installed into the Python that runs it. Exit codes: 0 ready, 2 wrong usage, 3 failed (what happened and what to do is printed), 130 interrupted.
"""

import os
import sys

if sys.version_info < (3, 9):  # noqa: UP036 - whatever Python the host has
    sys.stderr.write(
        "install.py needs Python 3.9 or later, this is " + sys.version.split()[0] + ". Try for example: python3.12 install.py\n"
    )
    sys.exit(3)

ROOT = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, ROOT)


def main(argv):
    import argparse

    from environment import build, journal
    from environment.uv import InstallError

    parser = argparse.ArgumentParser(prog="install.py", description="Builds _env/, the isolated environment that the worker runs in.")
    parser.add_argument("--layers", default="base", help="comma-separated, out of: " + ", ".join(journal.LAYERS))
    parser.add_argument("--rebuild", action="store_true", help="build again from nothing")
    options = parser.parse_args(argv)
    layers = tuple(("base," + options.layers).split(","))
    if set(layers) - set(journal.LAYERS):
        parser.error("--layers: choose out of " + ", ".join(journal.LAYERS))
    if os.environ.get("SAM3D_WORKER_PYTHON"):
        print("install: SAM3D_WORKER_PYTHON is set, so nothing is built: the worker runs in " + os.environ["SAM3D_WORKER_PYTHON"])
        return 0
    try:
        build.ensure(ROOT, layers, lambda line: print("install: " + line, flush=True), rebuild=options.rebuild)
    except InstallError as error:
        print("install: ERROR " + error.message + "\n         " + error.hint, file=sys.stderr, flush=True)
        return 3
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.stderr.write("install: interrupted\n")
        sys.exit(130)
