"""`python -m emag` is the `emag` command."""

from .lab.cli import main

main()
