"""An export on the Hugging Face hub, when the user asks for it."""

import re
from pathlib import Path

from mae.base.errors import RunFailed, UserError


def check_push(repo_id: str) -> None:
    """Before hours of work: UserError where the name is none, or nobody is logged in."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--push {repo_id}: {' '.join(str(error).split())}") from None
    if get_token() is None:
        raise UserError(f"--push {repo_id}: nobody is logged in: hf auth login")


def from_hub(code: str, repo_id: str) -> str:
    """Python that loads an export from `FOLDER`, loading it from the hub instead."""
    loaded, files = re.subn(
        r'"FOLDER/([^"/]+\.[^"/]+)"', rf'hf_hub_download("{repo_id}", "\1")', code
    )
    loaded, folders = re.subn(
        r'load_plain\("FOLDER"\)', f'load_plain(snapshot_download("{repo_id}"))', loaded
    )
    loaded = re.sub(r'"FOLDER/([^"/]+)"', rf'"{repo_id}", subfolder="\1"', loaded)
    loaded = loaded.replace("local-dir:FOLDER", f"hf-hub:{repo_id}").replace("FOLDER", repo_id)
    names = ["hf_hub_download"] * bool(files) + ["snapshot_download"] * bool(folders)
    return (f"from huggingface_hub import {', '.join(names)}\n" if names else "") + loaded


def push(folder: Path, repo_id: str) -> str:
    """Upload `folder` to a model repository, made private if it is new; returns its address.

    Raises RunFailed where that fails; `folder` stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Export")
    except Exception as error:  # of the hub, of HTTP, of the network: libraries that change
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunFailed(
            f"--push {repo_id}: not uploaded: {reason}; {folder} is complete: "
            f"hf upload {repo_id} {folder}"
        ) from None
    return str(address)
