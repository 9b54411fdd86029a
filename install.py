"""Builds `_env/`, the isolated environment that the worker runs in. ComfyUI-Manager runs this file; you can too, as often as you like.

    python install.py                       what this machine is good for: the GPU decides (docs/install.md)
    python install.py --layers video        more layers (base, model, video, server, ray, modal, dev; see environment/README.md)
    python install.py plan | status | doctor | repair | uninstall
    python install.py --help

Nothing is installed into the Python that runs it. The work is in environment/.
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

if __name__ == "__main__":
    from environment.commands import main

    try:
        sys.exit(main(ROOT, sys.argv[1:]))
    except KeyboardInterrupt:
        sys.stderr.write("install: interrupted\n")
        sys.exit(130)
