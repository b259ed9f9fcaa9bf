"""Export folder: choice of the format, writing, check in a fresh process, upload to the hub."""

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
from mae.base.progress import busy
from mae.base.redaction import shown
from mae.export.card import CardFacts, model_card
from mae.export.check import EXPECTED_PREFIX
from mae.export.contract import ExportFiles, ExportRequest, Writer
from mae.export.graphs import write_onnx, write_program
from mae.export.plain import write_plain
from mae.export.reading import PHOTOGRAPH, write_photograph
from mae.export.timm import write_timm
from mae.networks.vit import timm_encoder
from mae.objectives.base import Objective
from mae.objectives.implementation import Implementation

ENCODER_FORMATS: Mapping[str, Writer] = {
    "timm": write_timm,
    "onnx": write_onnx,
    "torch": write_program,
}
"""formats of objectives with a timm encoder"""

SAME_PIXELS = 1e-4
"""maximum difference of the inputs that the printed code and ours make of a photograph, relative to
their root mean square: the rounding of the normalisation"""

GENERAL_FORMATS: Mapping[str, Writer] = {"plain": write_plain}
"""formats of all objectives"""


class ExportResult(NamedTuple):
    """Summary of an export that has been written and checked."""

    reader: str
    """name of the library that loads it"""
    code: str
    """Python code that loads it"""
    max_error: float
    """maximum difference between the loaded and our outputs, relative to their root mean square"""
    part: str
    """exported part of the model, in a word"""
    remarks: Sequence[str]
    """lines for the user"""


def available_formats(objective: Objective, own: Implementation) -> dict[str, Writer]:
    """Name → writer of the formats that an objective has; the first is the default."""
    shared = {} if timm_encoder(objective) is None else ENCODER_FORMATS
    return {**shared, **own.exports, **GENERAL_FORMATS}


def select_writer(name: str | None, formats: Mapping[str, Writer], objective: str) -> Writer:
    """Writer of the format called `name`, or of the first; UserError for an unknown name."""
    if name is None:
        return next(iter(formats.values()))
    if name not in formats:
        raise UserError(
            f"--format {name}: not a format of objective {objective}; its formats: "
            f"{', '.join(formats)}"
        )
    return formats[name]


def export_folder(
    write: Writer,
    request: ExportRequest,
    images: Tensor,
    facts: CardFacts,
    checked_on: str,
    out: Path,
    repo_id: str | None = None,
) -> ExportResult:
    """Write and check the export folder `out`.

    Args:
        write: the format's writer.
        request: model and options.
        images: raw images [b c h w] for the check.
        facts: facts about the run, for the model card.
        checked_on: description of `images`, for the model card.
        out: new or empty folder.
        repo_id: model repository on the hub; the card's code then loads from there.

    Raises UserError where `out` is not empty or not writable, or the format does not support the
    model, and RunFailed where the loaded export computes something else; nothing is left then.
    """
    with new_folder(out) as part:
        with busy("writing the export"):
            written = write(part, request, images)
        code = hub_code(written.code, repo_id) if repo_id else written.code
        code = place(code, {"FOLDER": out.name})
        proof = f"{written.reader} computed the same on {checked_on}"
        card = model_card(request, facts, written._replace(code=code), proof)
        (part / "README.md").write_text(shown(card), encoding="utf-8")
        with busy("checking the export in a fresh process"):
            max_error = check_export(part, written, out, request.photograph)
    return ExportResult(
        reader=written.reader,
        code=place(written.code, {"FOLDER": str(out)}),
        max_error=max_error,
        part=written.part,
        remarks=written.remarks,
    )


def place(code: str, names: Mapping[str, str]) -> str:
    """Fill in the names of files and folders, which lie inside double quotes in `code`."""
    for name, value in names.items():
        code = code.replace(name, value.replace("\\", r"\\").replace('"', r"\""))
    return code


def check_export(
    folder: Path, written: ExportFiles, out: Path, photograph: Tensor | None = None
) -> float:
    """Load the export in a fresh process and return the maximum relative difference.

    The printed code is run on `photograph`, written to a file.  `out` is the folder's final name,
    for messages.  Raises RunFailed where it does not load, or
    the difference exceeds the format's tolerance.
    """
    # The number of threads changes the order of sums, and so the last bits.
    settings = {"threads": str(torch.get_num_threads()), **written.settings}
    loader = f"{written.loader.__module__}:{written.loader.__name__}"
    expected = {f"{EXPECTED_PREFIX}{name}": tensor for name, tensor in written.expected.items()}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        file = Path(scratch) / "check.safetensors"
        tensors = written.inputs | expected
        if PHOTOGRAPH in written.expected and photograph is not None:
            names = {"FOLDER": str(folder)}
            names |= write_photograph(photograph, Path(scratch))
            settings["code"] = place(written.code, names)
        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, file, settings)
        done = run_check([loader, str(folder), str(file)])
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise RunFailed(f"{out}: not written: {written.reader} cannot load it: {last}")
    errors = json.loads(done.stdout.splitlines()[-1])
    for name, error in errors.items():
        tolerance = {PHOTOGRAPH: SAME_PIXELS, **written.tolerances}.get(name, written.tolerance)
        if not error <= tolerance:
            what = "input of a photograph" if name == PHOTOGRAPH else name
            raise RunFailed(
                f"{out}: not written: {written.reader} computes other {what}: relative difference "
                f"{error:.1e}, tolerance {tolerance:.0e}"
            )
    return max(error for name, error in errors.items() if name != PHOTOGRAPH)


def run_check(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run `mae.export.check` in a fresh process on the CPU, without access to model hubs.

    Its `-P` keeps a folder called onnx in the working directory from shadowing the library.
    """
    paths = [str(Path(mae.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(paths)}
    command = [sys.executable, "-P", "-m", "mae.export.check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)


def check_push(repo_id: str) -> None:
    """Raise UserError, before any work, for an invalid repository name or without a login."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--push {repo_id}: {' '.join(str(error).split())}") from None
    if get_token() is None:
        raise UserError(f"--push {repo_id}: not logged in to the hub: run hf auth login")


def hub_code(code: str, repo_id: str) -> str:
    """Rewrite Python code that loads an export from `FOLDER` to load it from the hub."""
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
    """Upload `folder` to a model repository, created as private if it is new; return its URL.

    Raises RunFailed where the upload fails; `folder` stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=True, exist_ok=True)
        with busy("uploading the export"):
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Export")
    except Exception as error:  # of the hub, HTTP or the network: no common base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunFailed(
            f"--push {repo_id}: not uploaded: {reason}; {folder} is complete, upload it with "
            f"hf upload {repo_id} {folder}"
        ) from None
    return str(address)
