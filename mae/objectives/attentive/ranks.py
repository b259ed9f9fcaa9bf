"""Ranks of the true classes among the scores of heads, computed by all processes together."""

import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from mae.base.divided_work import divided_work
from mae.base.progress import ProgressLine
from mae.evaluation.encoders import weights_sha256
from mae.evaluation.parts import do_batches, pack_columns, unpack_columns
from mae.evaluation.probing import ProbeRequest
from mae.evaluation.results import label_ranks, prefixed_log
from mae.objectives.attentive.model import AttentiveProbe
from mae.objectives.attentive.tokens import Rows, Tokens

NAME = "ranks"
"""name of the parts"""

Ranks = npt.NDArray[np.int64]
"""[heads rows] number of classes that score higher than the true one: see `label_ranks`"""


def divided_ranks(
    request: ProbeRequest,
    encoder: str,
    probe: AttentiveProbe,
    tokens: Tokens,
    labels: npt.NDArray[np.int64],
    rows: Rows,
    batch_size: int,
) -> Ranks:
    """Ranks of `rows` of the tokens, in all processes, each of which computes its portion.

    `labels`: class number for each row of the tokens; `encoder`: its name.  An interrupted call
    resumes.
    """
    batches = np.array_split(rows, -(-len(rows) // batch_size))
    out = request.folder / f"attentive-{encoder}-ranks"

    def compute(numbers: Sequence[range]) -> Iterator[Ranks]:
        return ranks(probe, tokens, labels, [batches[number] for (number,) in numbers])

    def pack(parts: list[Ranks]) -> bytes:
        return pack_columns({NAME: np.concatenate(parts, axis=1)}, [])

    inputs = [request.encoders[encoder].sha256, weights_sha256(probe), type(tokens).__name__]
    data = [one.manifest.fingerprint for one in (request.train, request.test)]
    samples = hashlib.sha256(tokens.samples[rows].tobytes() + labels[rows].tobytes()).hexdigest()
    plan = json.dumps([*inputs, *data, samples, batch_size])
    log = prefixed_log(request.log, encoder)
    probe.eval()
    with request.on_device(encoder), divided_work(out, plan, request.portion, log) as work:
        show = ProgressLine("evaluating", "batches", log)
        count = do_batches(work, NAME, len(batches), 1, compute, pack, show)
        found = [unpack_columns(part).columns[NAME] for part in work.results(NAME, count)]
    return np.concatenate(found, axis=1)


@torch.no_grad()
def ranks(
    probe: AttentiveProbe,
    tokens: Tokens,
    labels: npt.NDArray[np.int64],
    batches: Sequence[Rows],
) -> Iterator[Ranks]:
    """Ranks of the rows of each of `batches`, for each head."""
    for rows, batch in zip(batches, tokens.load(batches), strict=True):
        above = [label_ranks(scores, labels[rows]) for scores in probe.scores(batch)]
        yield torch.stack(above).cpu().numpy()
