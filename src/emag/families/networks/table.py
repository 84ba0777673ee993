"""Every denoiser class we know, by name. A new one is an entry in one of these modules, and defaults in `defaults/`."""

from ..backbone import Backbone
from . import joint, ragged, separate, unet, video

BACKBONES: dict[str, Backbone] = {entry.name: entry for module in (joint, ragged, separate, unet, video)
                                  for entry in module.ENTRIES}
