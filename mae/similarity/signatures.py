"""Signatures of images: digests of bytes and pixels, difference hashes, tiny gray pictures."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.divided_work import DividedWork
from mae.base.errors import SampleError, UserError
from mae.base.progress import ProgressLine
from mae.data.images import BadSample, Images
from mae.data.worker_loader import load_in_workers
from mae.decoding.decode import decode_native, read_info
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.evaluation.parts import do_batches, pack_columns, unpack_columns
from mae.pack.duplicates import Words, content_digest
from mae.pack.examine import difference_hash, gray_pixels
from mae.similarity.thumbnails import pixel_digest

FORMAT = "signatures 1"
"""of the parts: another one where signatures change"""
SIDE = 16
"""side of the tiny gray picture in pixels"""
BATCH, TOGETHER = 64, 16
"""images of a batch, and batches of a part"""


class Signatures(NamedTuple):
    """Signatures of the usable images of a data set."""

    samples: npt.NDArray[np.int64]
    """[n] numbers in the manifest, ascending"""
    content: Words
    """[n 2] digests of the files"""
    pixels: Words
    """[n 2] digests of the decoded pixels"""
    hash: Words
    """[n] difference hashes"""
    mirrored: Words
    """[n] difference hashes of the mirrored images"""
    has_hash: npt.NDArray[np.bool_]
    """[n] False for images with too little structure"""
    look: npt.NDArray[np.int8]
    """[n SIDE SIDE] gray pictures, without their mean, the largest value 127"""
    bad: list[str]
    """shard, key and defect of each unusable image"""


class _Signature(NamedTuple):
    """Signature of an image, see `Signatures`."""

    content: bytes
    pixels: bytes
    hash: int
    mirrored: int
    has_hash: bool
    look: bytes


class _Signed(NamedTuple):
    """Signatures of some images."""

    samples: list[int]
    signatures: list[_Signature]
    bad: list[BadSample]


class _Signer(Dataset):
    """Data set: range of sample numbers → their signatures."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, index: range) -> _Signed | UserError:
        signed = _Signed([], [], [])
        for sample in index:
            try:
                signed.signatures.append(self._sign(sample))
                signed.samples.append(sample)
            except BadImage as error:
                reason = f"{self.images.manifest.name(sample)}: {error}"
                signed.bad.append(BadSample(sample, reason))
            except SampleError as error:
                signed.bad.append(BadSample(sample, str(error)))
            except UserError as error:
                return error
        return signed

    def _sign(self, sample: int) -> _Signature:
        data = self.images.reader.read(sample)
        extension = EXTENSIONS[self.images.manifest.kind.item(sample)]
        info = read_info(data, extension)
        gray = gray_pixels(data, extension, info)
        plain, mirrored = (difference_hash(one, info.bits) for one in (gray, gray.flip(-1)))
        has_hash = plain is not None and mirrored is not None
        return _Signature(
            content=content_digest(data),
            pixels=pixel_digest(decode_native(data, extension)),
            hash=plain or 0,
            mirrored=mirrored or 0,
            has_hash=has_hash,
            look=_look(gray).tobytes(),
        )


def _look(gray: Tensor) -> npt.NDArray[np.int8]:
    """Tiny picture [SIDE SIDE] of gray pixels [1 h w]; zeros where it is blank."""
    small = F.adaptive_avg_pool2d(gray[None], (SIDE, SIDE))[0, 0]
    small = small - small.mean()
    return (small / small.abs().max().clamp(min=1e-6) * 127).round().numpy().astype(np.int8)


def signatures(
    images: Images,
    work: DividedWork,
    name: str,
    *,
    workers: int = 0,
    log: Callable[[str], None] = print,
) -> Signatures | None:
    """Signatures of `images`, which are decoded in their own channels and bits.

    Each process does its portion, as the parts `name` of `work`; the first gets the result, others
    None.  Raises UserError for shards that cannot be read.
    """
    parts = do_batches(
        work,
        name,
        len(images.manifest),
        BATCH,
        lambda batches: load_in_workers(_Signer(images), batches, workers),
        _pack,
        ProgressLine("signing", "images", log),
        together=TOGETHER,
    )
    return _joined(work.results(name, parts)) if work.portion.joins else None


def _pack(batches: Sequence[_Signed]) -> bytes:
    found = [one for batch in batches for one in batch.signatures]
    columns = {
        "samples": np.array([one for batch in batches for one in batch.samples], np.int64),
        "content": np.frombuffer(b"".join(one.content for one in found), "<u8").reshape(-1, 2),
        "pixels": np.frombuffer(b"".join(one.pixels for one in found), "<u8").reshape(-1, 2),
        "hash": np.array([one.hash for one in found], np.uint64),
        "mirrored": np.array([one.mirrored for one in found], np.uint64),
        "has_hash": np.array([one.has_hash for one in found], np.bool_),
        "look": np.frombuffer(b"".join(one.look for one in found), np.int8).reshape(-1, SIDE, SIDE),
    }
    return pack_columns(columns, [bad.reason for batch in batches for bad in batch.bad])


def _joined(parts: Iterator[bytes]) -> Signatures:
    found = [unpack_columns(part) for part in parts]
    columns = {
        name: np.concatenate([one.columns[name] for one in found])
        for name in Signatures._fields
        if name != "bad"
    }
    return Signatures(**columns, bad=[reason for one in found for reason in one.reasons])
