"""Better images from pretrained diffusion models at sampling time, without training: EMAG and the rules beside it.

    pipe = emag.load("tiny")
    with emag.guide(pipe, emag.EMAG(1.5), emag.CFG(4.0)) as run:
        pipe("a photo of a frog")

Every public name stands in `__init__.pyi` and is imported when first used, so that `import emag` costs nothing.
"""

import lazy_loader

from .quiet import hush

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"

hush()
