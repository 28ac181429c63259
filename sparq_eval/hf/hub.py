"""Which commit of a hub repository is meant, and a plain sentence when it cannot be had."""

from pathlib import Path

from huggingface_hub import constants, hf_hub_download
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

BUNDLED = "smollm2-135m, gemma3-270m or qwen2.5-coder-1.5b"


def resolve(name: str, repository: str, revision: str | None) -> tuple[Path, str]:
    """The folder that holds the repository's config.json in the hub's cache, and the commit it is of.

    A revision that is cached is enough; only what is missing is asked of the hub.
    """
    try:
        config = Path(hf_hub_download(repository, "config.json", revision=revision))
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


def _unreachable(name: str, repository: str) -> UserError:
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    return UserError(
        f"model={name} needs the hub for {repository}, which is not in its cache, and {why}; use "
        f"model.path=<folder|file.gguf> or one of the bundled models {BUNDLED}"
    )
