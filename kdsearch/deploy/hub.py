"""To the Hugging Face Hub, only when asked, private unless asked otherwise."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, constants

from kdsearch.errors import EnvironmentProblem, InputError
from kdsearch.io.text import first_line


def refuse_offline(repo: str) -> None:
    """
    Raises:
        InputError: that cannot be a repository's name.
        EnvironmentProblem: the Hub is switched off.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise InputError(f"--push-to-hub: {repo!r} is no repository: write NAME or OWNER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise EnvironmentProblem("--push-to-hub: HF_HUB_OFFLINE is set, so nothing can be pushed: unset it, or leave the option out")


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Upload the folder; returns the repository's address.

    Raises:
        EnvironmentProblem: the Hub cannot be reached or refuses.
    """
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message="Exported by kdsearch")
    except Exception as problem:  # whichever HTTP library this huggingface_hub uses has errors of its own
        raise EnvironmentProblem(
            f"--push-to-hub {repo}: the Hub did not take it ({first_line(problem)}); the folder {folder} is complete"
        ) from problem
    return str(address)
