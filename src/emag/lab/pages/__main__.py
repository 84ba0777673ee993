"""`python -m emag.lab.pages docs`: write every generated page. `make pages` runs it."""

import sys
from pathlib import Path

from . import stale, write

if __name__ == "__main__":
    if len(sys.argv) != 2 or not (docs := Path(sys.argv[1])).is_dir():
        sys.exit("expected one folder, that of the docs: python -m emag.lab.pages docs")
    changed = stale(docs)
    write(docs)
    print("\n".join(f"{docs / name} is new" for name in changed) or "every page was up to date")
