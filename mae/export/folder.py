"""One export: written, proven in a fresh process, and only then there."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

import mae
from mae.base.errors import RunFailed
from mae.base.files import new_folder
from mae.export.card import model_card
from mae.export.check import PREFIX
from mae.export.facts import Facts
from mae.export.push import from_hub
from mae.export.subject import Subject, Writer, Written


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
