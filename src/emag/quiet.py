"""What other libraries say of themselves while we import them, and nobody can mend here."""

import logging

SPOKEN_OF = "requires torchvision (not installed)"


def hush() -> None:
    """Leave out transformers' remark, one for each image processor, that torchvision is not there."""
    logging.getLogger("transformers.utils.import_utils").addFilter(_unsaid)


def _unsaid(record: logging.LogRecord) -> bool:
    return SPOKEN_OF not in record.getMessage()
