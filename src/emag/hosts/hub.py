"""Whether a repository of the Hugging Face hub can be had, known within seconds and with the true cause where it cannot."""

from pathlib import Path

from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import validate_repo_id

from ..errors import BadValue
from ..models.folder import first_line

WAIT = 5.0
"""Seconds to wait for the hub."""


def cached_only(name: str, file: str, revision: str | None = None, needed: bool = True) -> bool:
    """True where the hub cannot be reached, or has it no longer, but `file` of the repository `name` was fetched before.

    False where the hub has it, or has the repository if the file is not `needed`. One question, no retries. Raises
    `BadValue` with the reason where neither is so.
    """
    try:
        validate_repo_id(name)
    except errors.HFValidationError as error:
        raise BadValue(f"{_local(name)}, and it is no name of a repository on the hub") from error
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=WAIT)
    except errors.EntryNotFoundError as error:
        if needed:
            raise BadValue(f"the hub's {name} has no {file}") from error
    except Exception as error:  # of the hub, of the network, of one of the libraries below: many classes
        if isinstance(try_to_load_from_cache(name, file, revision=revision), str):
            return True
        raise BadValue(f"{_local(name)}, and {_reason(error, name, revision)}") from error
    return False


def _local(name: str) -> str:
    return f"there is no folder {name} here" + ("" if Path(name).parent.is_dir() else f", nor {Path(name).parent}/")


def _reason(error: Exception, name: str, revision: str | None) -> str:
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the hub is not asked while HF_HUB_OFFLINE is set; it is not in the cache"
    if isinstance(error, errors.GatedRepoError):
        return f"the hub wants its licence accepted: do so at huggingface.co/{name}, then hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has no revision {revision!r} of it"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository, or it is private: then hf auth login"
    return f"the hub cannot be reached ({first_line(error)}); it is not in the cache"
