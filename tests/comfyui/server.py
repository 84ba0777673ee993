"""The whole of ComfyUI's HTTP server: `python server.py TREE BASE PORT [FRONT]`; packs in BASE/custom_nodes.

FRONT: the folder of its page, `comfyui_frontend_package/static`; without it BASE, a new folder, is furnished by who calls.
"""

import os
import runpy
import sys
from pathlib import Path

import rooms
from furnish import furnish
from tree import stand_in


def serve(root: str, base: str, port: str, front: str | None = None) -> None:
    """Serve on the loopback until ended."""
    stand_in()
    rooms.stand_in(Path(root))
    if front is None:
        bare = Path(base) / "front"
        bare.mkdir(exist_ok=True)
        (bare / "index.html").write_text("<p>no front end</p>")
        front = str(bare)
    else:
        furnish(Path(base))
    os.chdir(root)
    sys.path.insert(0, root)
    sys.argv = ["main.py", "--cpu", "--listen", "127.0.0.1", "--port", port, "--front-end-root", front,
                "--base-directory", base, "--disable-auto-launch"]
    runpy.run_path("main.py", run_name="__main__")


if __name__ == "__main__":
    serve(*sys.argv[1:5])
