"""The launcher: `python sam3d.py COMMAND ...` makes sure that `_env/` has what COMMAND needs, then runs it there.

    python sam3d.py reconstruct examples/steak.png --out outputs
    python sam3d.py test [ARGS for pytest]
    python sam3d.py --help

Standard library only; the work is in environment/launch.py. This file stays readable for every Python, so that one that is too old gets a
sentence and no SyntaxError.
"""

import os
import sys

if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.stderr.write("sam3d needs Python 3.10 to 3.13, this is " + sys.version.split()[0] + ". Try for example: python3.12 sam3d.py\n")
    sys.exit(3)

ROOT = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, ROOT)

if __name__ == "__main__":
    from environment.launch import main

    try:
        sys.exit(main(ROOT, sys.argv[1:]))
    except KeyboardInterrupt:
        sys.stderr.write("sam3d: interrupted\n")
        sys.exit(130)
