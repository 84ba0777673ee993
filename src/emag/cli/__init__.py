"""The `emag` command."""

import sys


def main() -> None:
    """Run the command. What it needs is loaded here, so that ctrl-c is answered then too."""
    try:
        from .failures import main as run
    except KeyboardInterrupt:
        print("emag: interrupted before it began: nothing was written", file=sys.stderr)
        sys.exit(130)
    run()
