"""Models on the Hugging Face Hub: fetched into its cache, where they are found without a network, and uploaded."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def is_name(what: object) -> bool:
    """Return whether a text may be the name of a repository: OWNER/NAME or OWNER/NAME@REVISION."""
    return isinstance(what, str) and _NAME.fullmatch(what) is not None and not what.startswith(".")


def fetched(what: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return a folder with files of a repository, those that match patterns, of one branch, tag or commit.

    Files that were fetched before are taken from the cache of `huggingface_hub`, also without a network. Raises
    FileNotFoundError when there is no such repository or revision, and when it cannot be reached.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415, who loads what is here needs none of it
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError  # noqa: PLC0415

    parts = _NAME.fullmatch(what)
    assert parts is not None
    if parts["revision"] and revision:
        raise ValueError(f"{what} names a revision already, got another one: revision={revision!r}")
    name, revision = parts["name"], parts["revision"] or revision
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except RevisionNotFoundError as error:
        fault, cause = f"{name} on the Hub has no revision {revision!r}", error
    except RepositoryNotFoundError as error:
        fault = f"{name} is neither a folder here nor a repository on the Hub that you may read (`hf auth login`)"
        cause = error
    except Exception as error:  # of the network, of which there are many
        fault = (
            f"{name} is no folder here, and cannot be fetched from the Hub ({type(error).__name__}: "
            f"{' '.join(str(error).split())}): without a network only what was fetched before is there"
        )
        cause = error
    raise FileNotFoundError(fault) from cause


def upload(
    name: str, contents: Mapping[str, bytes], *, patterns: Sequence[str], private: bool, revision: str | None
) -> str:
    """Write files into a repository, which is made if there is none, as one commit; return the commit.

    Files there that match `patterns` and are not among the contents are removed. Raises ValueError when the Hub
    refuses, and when it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi  # noqa: PLC0415, as above
    from huggingface_hub.utils import filter_repo_objects  # noqa: PLC0415

    api = HfApi()
    operations: list[Any] = [CommitOperationAdd(file, content) for file, content in contents.items()]
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        there = filter_repo_objects(api.list_repo_files(name, revision=revision), allow_patterns=list(patterns))
        operations += [CommitOperationDelete(file) for file in there if file not in contents]
        message = "Upload a model of metaot"
        return api.create_commit(name, operations, commit_message=message, revision=revision).oid
    except Exception as error:  # of the network and of the Hub, of which there are many
        raise ValueError(
            f"{name} could not be written on the Hub ({type(error).__name__}: {' '.join(str(error).split())}): "
            "`hf auth login` signs you in"
        ) from error
