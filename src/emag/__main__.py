"""`python -m emag` is the `emag` command."""

from .cli import main

main()
