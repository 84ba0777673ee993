"""A new base folder for a ComfyUI server: our pack, the stand-ins, and a checkpoint by name."""

from pathlib import Path

from emag.hosts.comfy.install import install

HERE = Path(__file__).parent
CHECKPOINT = "sd3.5_medium.safetensors"
"""What the shipped workflows name; nothing is read from it."""


def furnish(base: Path) -> None:
    """Put them there."""
    (base / "custom_nodes" / "stand-ins").mkdir(parents=True)
    (base / "custom_nodes" / "stand-ins" / "__init__.py").write_text((HERE / "standins.py").read_text())
    (base / "models" / "checkpoints").mkdir(parents=True)
    (base / "models" / "checkpoints" / CHECKPOINT).touch()
    install(base, copied=True)
