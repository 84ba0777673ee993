"""The `emag` command."""

import logging
import os
import sys

from transformers.utils import logging as transformers_logging

from ...errors import EmagError
from .common import Once, app


def main() -> None:
    """Run the command; errors are one line on standard error and exit code 2."""
    transformers_logging.set_verbosity_error()  # it warns of every image library that is not installed
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # for worker processes, which read it at import
    from . import (  # noqa: F401  (register)
        calibrate,
        compare,
        demo,
        doctor,
        generate,
        listing,
        metrics,
        plan,
        report,
        reproduce,
        results,
        run,
        show,
        sweep,
        verify,
        vote,
    )

    log, once = logging.getLogger("emag"), Once()
    log.addFilter(once)
    try:
        app()
    except EmagError as error:
        sys.exit(_failed(str(error)))
    except KeyboardInterrupt:
        print("emag: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        log.removeFilter(once)


def _failed(message: str) -> int:
    print(f"emag: error: {message}", file=sys.stderr)
    return 2
