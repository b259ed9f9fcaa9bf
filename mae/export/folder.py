"""Formats of `mae export` by name: those of any objective, and an objective's own."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

import mae
from mae.base.errors import RunFailed, UserError
from mae.base.files import new_folder
from mae.export.card import Facts, model_card
from mae.export.check import PREFIX
from mae.export.graphs import write_onnx, write_program
from mae.export.plain import write_plain
from mae.export.subject import Subject, Writer, Written
from mae.export.timm import write_timm
from mae.networks.vit import timm_encoder
from mae.objectives.base import Implementation, Objective

OF_ENCODERS: Mapping[str, Writer] = {
    "timm": write_timm,
    "onnx": write_onnx,
    "torch": write_program,
}
"""of objectives whose `encoder` is a Vision Transformer of timm's"""

OF_ALL: Mapping[str, Writer] = {"plain": write_plain}


def formats_of(objective: Objective, own: Implementation) -> dict[str, Writer]:
    """Name → writer; the first is the one to take where nobody chooses."""
    shared = {} if timm_encoder(objective) is None else OF_ENCODERS
    return {**shared, **own.exports, **OF_ALL}


def writer_of(name: str | None, formats: Mapping[str, Writer], objective: str) -> Writer:
    """The writer of a format, or the first; UserError where there is none of that name."""
    if name is None:
        return next(iter(formats.values()))
    if name not in formats:
        raise UserError(
            f"--format {name}: objective {objective} has no such format; it has "
            f"{', '.join(formats)}"
        )
    return formats[name]


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


class Exported(NamedTuple):
    """What was proven of an export that is there."""

    reader: str
    code: str
    """how to load it"""
    off: float
    """the largest difference from our own numbers, relative to their root mean square"""
    part: str
    """of the model that it holds, in a word"""
    remarks: Sequence[str]
    """lines for the user"""


def export_folder(
    write: Writer,
    subject: Subject,
    images: Tensor,
    facts: Facts,
    checked_on: str,
    out: Path,
    repo_id: str | None = None,
) -> Exported:
    """Fill `out` by a format's writer.  `images` [b c h w], raw, are what it is checked on.

    The model card tells how to load it from the hub where it is to go there, as `repo_id`.
    Raises UserError where `out` is not empty or not writable, or the format cannot express the
    model, and RunFailed where the library does not compute what we do; nothing is left then.
    """
    with new_folder(out) as part:
        written = write(part, subject, images)
        code = from_hub(written.code, repo_id) if repo_id else written.code
        code = code.replace("FOLDER", out.name)
        proof = f"{written.reader} computed the same on {checked_on}"
        card = model_card(subject, facts, written._replace(code=code), proof)
        (part / "README.md").write_text(card)
        off = check(part, written, out)
    code = written.code.replace("FOLDER", str(out))
    return Exported(written.reader, code, off, written.part, written.remarks)


def check(folder: Path, written: Written, out: Path) -> float:
    """The largest difference that a fresh process finds; RunFailed beyond the tolerance."""
    # Sums in another order differ in the last bits.
    notes = {"threads": str(torch.get_num_threads()), **written.notes}
    loader = f"{written.loader.__module__}:{written.loader.__name__}"
    expected = {f"{PREFIX}{name}": tensor for name, tensor in written.expected.items()}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "check.safetensors"
        tensors = written.given | expected
        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, file, notes)
        done = fresh_process([loader, str(folder), str(file)])
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise RunFailed(f"{out}: not written: {written.reader} cannot load it: {last}")
    off = json.loads(done.stdout.splitlines()[-1])
    for name, value in off.items():
        if not value <= written.tolerance:
            raise RunFailed(
                f"{out}: not written: {written.reader} computes other {name}, off by "
                f"{value:.1e} of their size (at most {written.tolerance:.0e})"
            )
    return max(off.values())


def fresh_process(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """`mae.export.check` with these arguments, wherever this package lies; it asks no hub anything.

    With -P: a folder named onnx in the working directory is not the library.
    """
    paths = [str(Path(mae.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(paths)}
    command = [sys.executable, "-P", "-m", "mae.export.check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
