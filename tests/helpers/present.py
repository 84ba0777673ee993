"""Networks of ours that the installed diffusers, an older one, does not have."""

import diffusers

NEWER = {"BriaFibo2Transformer2DModel", "Kandinsky6Transformer3DModel"}
ABSENT = NEWER - set(dir(diffusers))
