"""For whoever adds a method or a model: the laws every rule obeys, and small pipelines of every family.

    from emag.testing import check
    check(MyRule(2.0), MyRule(1.0))    # raises with the law's text where one is broken

Imported when first used: a name costs its own module alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "cases": ["every"], "laws": ["LAWS", "Check", "Law", "LawBroken", "Trial", "check", "checks", "trial"]})
