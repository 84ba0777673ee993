"""The small pipelines that the package itself uses, under a short name."""

from emag.testing.small import (
           CASES,
           TEXT,
           Case,
           awaken,
           dit,
           dit_call,
           flux,
           flux_call,
           generators,
           noise,
           pixart,
           pixart_call,
           quiet,
           sd3,
           sd3_call,
           true_cfg_call,
           vae,
)

__all__ = ["CASES", "TEXT", "Case", "awaken", "dit", "dit_call", "flux", "flux_call", "generators", "noise", "pixart",
           "pixart_call", "quiet", "sd3", "sd3_call", "true_cfg_call", "vae"]
