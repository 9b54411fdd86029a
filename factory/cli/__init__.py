"""The command line: `reconstruct`, `batch`, `doctor`, `version` (docs/cli.md). Starts fast: what a command needs loads when it runs."""

from __future__ import annotations

import os
import sys


def main(argv: list[str] | None = None) -> None:
    """The entry point. Ends the process with an exit code: 0 done, 1 failed, 2 wrong input or usage, 3 environment, 130 interrupted."""
    import click

    from .app import app

    try:
        sys.exit(app.main(argv, prog_name="sam3d", standalone_mode=False))
    except click.ClickException as problem:  # wrong usage
        problem.show()
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `sam3d ... | head`: nobody reads any more, and that is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
