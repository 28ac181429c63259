"""Which commit of a hub repository is meant, and a plain sentence when it cannot be had."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sparq_eval.errors import UserError
from sparq_eval.packages import known_sha256
from sparq_eval.progress import say

T = TypeVar("T")
WAITS = (2, 8, 30)  # seconds between tries
FINAL = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, HFValidationError)
NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
BUNDLED = "smollm2-135m, gemma3-270m or qwen2.5-coder-1.5b"


def resolve(name: str, repository: str, revision: str | None) -> tuple[Path, str]:
    """The folder that holds the repository's config.json in the hub's cache, and the commit it is of.

    A revision that is cached is enough; only what is missing is asked of the hub.
    """
    try:
        config = Path(retried(f"model={name}", lambda: hf_hub_download(repository, "config.json", revision=revision)))
    except GatedRepoError as error:
        raise UserError(
            f"model={name}: {repository} is gated: accept its licence on its page of the hub and log in with "
            "`hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"model.revision={revision} is no branch, tag or commit of {repository}") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"model.path={repository} is neither a file or folder here nor a repository of the hub that you may read"
        ) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(name, repository) from error
    except EntryNotFoundError as error:
        raise UserError(f"model.path={repository} has no config.json, so it is no model that can be loaded") from error
    except HFValidationError as error:
        raise UserError(f"model.path={repository} is no file, no folder and no hub id (owner/name)") from error
    except (HfHubHTTPError, OSError) as error:
        raise _unreachable(name, repository) from error
    return config.parent, config.parent.name


def fetch(name: str, repository: str, commit: str) -> None:
    """Bring the repository's weights and tokenizer into the hub's cache, and hold what came to its checksums.

    A failure on the way is tried again, longer apart each time; what has arrived is kept. Then one UserError.
    """
    folder = retried(
        f"model={name}",
        lambda: snapshot_download(repository, revision=commit, allow_patterns=WANTED, ignore_patterns=["*/*"]),
    )
    for link in sorted(Path(folder).glob("*.safetensors")):
        # the cache names a large file by the sha256 that the hub states for it
        blob = link.resolve()
        if re.fullmatch("[0-9a-f]{64}", blob.name) and (found := known_sha256(blob)) != blob.name:
            raise UserError(
                f"model={name}: {link.name} of {repository} should have sha256 {blob.name}, not {found}: it was "
                f"damaged on its way or here; delete {blob} and run again"
            )


def retried(what: str, get: Callable[[], T]) -> T:
    """What `get` returns, tried again while the hub or the network fails."""
    for wait in (*WAITS, None):
        try:
            return get()
        except FINAL:
            raise
        except Exception as error:  # a network fails in the words of several libraries
            library = type(error).__module__.split(".")[0]
            if not isinstance(error, OSError | HfHubHTTPError) and library not in NETWORK:
                raise
            why = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            if wait is None:
                raise UserError(
                    f"{what}: the hub or the network failed {len(WAITS) + 1} times, last with {why}; what arrived is "
                    "kept, and the same command goes on from there"
                ) from error
        say(f"{what}: the hub or the network failed ({why}); trying again in {wait} s")
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _unreachable(name: str, repository: str) -> UserError:
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    return UserError(
        f"model={name} needs the hub for {repository}, which is not in its cache, and {why}; use "
        f"model.path=<folder|file.gguf> or one of the bundled models {BUNDLED}"
    )
