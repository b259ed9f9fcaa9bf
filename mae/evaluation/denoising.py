"""Denoising of image files and shards, which keep their format, depth, channels and metadata."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mae.base.divided_work import part_sizes
from mae.base.errors import SampleError, UserError
from mae.base.files import file_content, file_identity, new_file
from mae.base.redaction import file_name, redacted
from mae.data.image_files import ImageFile
from mae.data.images import LOSSY, Images
from mae.data.tar_members import read_member, walk_open
from mae.decoding.decode import decode, decode_native, is_lossy, read_info
from mae.decoding.pixels import EXTENSIONS, BadImage, colours_for
from mae.decoding.rewriting import Rewritten, rewrite
from mae.evaluation.denoising_parts import (
    DenoiseRequest,
    Example,
    Finish,
    Row,
    denoise_parts,
)
from mae.evaluation.residuals import Residual, residual_of


class Denoised(NamedTuple):
    """Denoised image file, and measures of what was removed."""

    file: Rewritten
    residual: Residual


def denoise_file(data: bytes, extension: str, request: DenoiseRequest) -> Denoised:
    """Denoise the image file `data`.

    Alpha is kept as it is, unless the denoiser was trained with it; gray images go through a
    denoiser of three channels as gray colours.  Raises BadImage for files that do not decode or
    cannot be written again, that are of other channels or more bits than `request.data`, or
    compressed with loss where that is refused, and for results that are not finite.
    """
    if request.lossless and is_lossy(data, extension):
        raise BadImage(LOSSY)
    channels, bits = request.data.in_chans, request.data.bits
    info = read_info(data, extension, channels)
    colours = colours_for(info, channels, "denoiser")
    pixels = decode(data, extension, channels, bits)
    result = request.denoise(pixels[None].to(request.device))[0].float().cpu()
    if not result.isfinite().all():
        raise BadImage("the denoiser gives no finite pixels: its weights are damaged")
    noisy = pixels.float() / (2**bits - 1)
    if colours < channels:
        result, noisy = result.mean(dim=0, keepdim=True), noisy[:1]
    white = 2**info.bits - 1
    values = (result * white).round().clamp(0, white).numpy()
    values = values.astype(np.uint8 if info.bits == 8 else np.uint16)
    if colours < info.channels:
        values = np.concatenate([values, decode_native(data, extension)[-1:].numpy()])
    file = rewrite(data, extension, values.transpose(1, 2, 0))
    return Denoised(file, residual_of(noisy, result, white))


def denoise_files(files: Sequence[ImageFile], request: DenoiseRequest, finish: Finish) -> list[Row]:
    """Denoise image files into `request.out`; rows as `denoise_parts`.

    Names stay; a file that becomes a PNG gets that ending besides its own.  Raises UserError as
    `denoise_parts`, and where two results would have one name, StorageError where a file cannot be
    read.
    """
    _refuse_collisions(files)
    sizes = part_sizes(len(files), 1)
    paths = {name: path for path, name in files}

    def do(part: int, folder: Path) -> Iterator[Row]:
        for path, name in files[part * sizes[0] : (part + 1) * sizes[0]]:
            data, extension = file_content(path), path.suffix[1:].lower()
            try:
                done = denoise_file(data, extension, request)
            except BadImage as error:
                yield {"image": name, "error": str(error)}
                continue
            written = name if done.file.extension == extension else f"{name}.{done.file.extension}"
            with new_file(folder / written) as temporary:
                temporary.write_bytes(done.file.data)
            yield _row(name, written, done)

    def example(row: Row, folder: Path) -> Example:
        path, made = paths[row["image"]], folder / row["written"]
        extensions = path.suffix[1:].lower(), made.suffix[1:].lower()
        return Example(row["image"], file_content(path), file_content(made), extensions)

    listed = [[str(path.absolute()), name, *file_identity(path)] for path, name in files]
    return denoise_parts(do, sizes, listed, request, finish, example)


def denoise_shards(images: Images, request: DenoiseRequest, finish: Finish) -> list[Row]:
    """Denoise the images of shards into shards of the same names; other members are copied.

    A bad image is left out, its sample's other members stay.  Raises as `denoise_parts`, and
    UserError for shards of the same name.
    """
    manifest = images.manifest
    counts = manifest.counts().tolist()
    names = [*map(file_name, manifest.shards)]
    if len(set(names)) < len(names):
        raise UserError("shards of the same name: denoise them into folders of their own")

    def do(part: int, folder: Path) -> Iterator[Row]:
        location = redacted(manifest.shards[part])
        samples = {manifest.offset.item(n): n for n in manifest.samples_of(part)}
        folder.mkdir(exist_ok=True)
        with (
            new_file(folder / names[part]) as temporary,
            tarfile.open(temporary, "w") as tar,
            images.reader.open_shard(part) as shard,
        ):
            members = list(walk_open(shard, location))
            taken = {member.name for member in members}
            for member in members:
                name, number = member.name, samples.get(member.offset)
                if number is None:
                    data = read_member(shard, location, member)
                else:
                    shown = manifest.name(number)
                    try:
                        done, name = _denoise_sample(images, number, member.name, taken, request)
                    except (BadImage, SampleError) as error:
                        reason = str(error).removeprefix(f"{shown}: ")
                        yield {"image": shown, "error": reason}
                        continue
                    data = done.file.data
                    place = {"shard": names[part], "sample": number}
                    yield {**_row(shown, name, done), **place}
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))

    def example(row: Row, folder: Path) -> Example:
        number, name = row["sample"], row["written"]
        with tarfile.open(folder / row["shard"]) as tar:
            member = tar.extractfile(name)
            assert member is not None
            made = member.read()
        extensions = EXTENSIONS[manifest.kind[number]], name.rpartition(".")[2]
        return Example(manifest.key(number), images.reader.read(number), made, extensions)

    return denoise_parts(do, counts, [manifest.fingerprint, names], request, finish, example)


def _denoise_sample(
    images: Images, number: int, name: str, taken: set[str], request: DenoiseRequest
) -> tuple[Denoised, str]:
    """The denoised image of a sample, and its name in the new shard."""
    key, _, extension = name.rpartition(".")
    done = denoise_file(images.reader.read(number), extension.lower(), request)
    if done.file.extension == extension.lower():
        return done, name
    made = f"{key}.{done.file.extension}"
    if made in taken:
        raise BadImage(f"becomes {made}, which the shard has already")
    return done, made


def _row(name: str, written: str, done: Denoised) -> Row:
    note = {"note": done.file.note} if done.file.note else {}
    return {"image": name, "written": written, **note, **done.residual._asdict()}


def _refuse_collisions(files: Sequence[ImageFile]) -> None:
    names = {name for _, name in files}
    for name in names:
        if f"{name}.png" in names:
            raise UserError(f"{name} and {name}.png: results of both may be named {name}.png")
