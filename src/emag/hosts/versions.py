"""The range of diffusers that this package says it works with, held against the one that is there."""

import importlib.metadata
from functools import cache

from packaging.requirements import Requirement

from ..errors import Unsupported


def supported() -> Requirement | None:
    """The requirement on diffusers of the installed package; None where emag itself is not installed."""
    try:
        asked = importlib.metadata.requires("emag") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((one for one in map(Requirement, asked) if one.name == "diffusers"), None)


@cache
def check_versions() -> None:
    """Raise `Unsupported` where diffusers is outside the range."""
    wanted, found = supported(), importlib.metadata.version("diffusers")
    if wanted is not None and not wanted.specifier.contains(found, prereleases=True):
        raise Unsupported(f"diffusers {found} is here, and emag works with {wanted.specifier}: "
                          f"pip install 'diffusers{wanted.specifier}'")
