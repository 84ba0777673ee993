"""The whole of ComfyUI's HTTP server without its page: `python server.py TREE BASE PORT`; packs in BASE/custom_nodes."""

import os
import runpy
import sys
from pathlib import Path

import rooms
from tree import stand_in


def serve(root: str, base: str, port: str) -> None:
    """Serve on the loopback until ended."""
    stand_in()
    rooms.stand_in(Path(root))
    front = Path(base) / "front"
    front.mkdir(exist_ok=True)
    (front / "index.html").write_text("<p>no front end</p>")
    os.chdir(root)
    sys.path.insert(0, root)
    sys.argv = ["main.py", "--cpu", "--listen", "127.0.0.1", "--port", port, "--front-end-root", str(front),
                "--base-directory", base, "--disable-auto-launch"]
    runpy.run_path("main.py", run_name="__main__")


if __name__ == "__main__":
    serve(*sys.argv[1:4])
