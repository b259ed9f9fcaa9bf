"""Images that a command line names, by number: of image files, or of shards."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mae.base.errors import SampleError, UserError
from mae.base.files import file_identity
from mae.base.output import print_error
from mae.base.printable import printable
from mae.config.sections import Config
from mae.data.image_files import is_image_file
from mae.data.images import LOSSY, Images, float_normalisation
from mae.data.opening import open_images
from mae.data.sample_names import sample_name
from mae.data.transform import stack
from mae.data.views import evaluation_view
from mae.decoding.decode import decode, is_lossy
from mae.decoding.pixels import BadImage
from mae.objectives.registry import data_needs


class FileImages:
    """Image files, by number."""

    def __init__(self, paths: Sequence[Path], config: Config) -> None:
        self.paths, self.config = paths, config
        self.lossless = data_needs(config).lossless

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        """Name of the file."""
        return self.paths[number].name

    def decoded(self, number: int) -> Tensor:
        """Image [c h w]; SampleError where it does not decode, or must not be compressed.

        UserError where the file cannot be read.
        """
        path, data = self.paths[number], self.config.data
        try:
            content, extension = path.read_bytes(), path.suffix[1:].lower()
            if self.lossless and is_lossy(content, extension):
                raise UserError(f"{path}: {LOSSY}")
            image = decode(content, extension, data.in_chans, data.bits)
            return float_normalisation(data).of(image)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except BadImage as error:
            raise SampleError(f"{path}: {error}") from None

    def view(self, number: int, size: tuple[int, int]) -> Tensor:
        """Centred view [c h w] of `size`; raises as `decoded`."""
        try:
            return evaluation_view(self.decoded(number), size, self.config)
        except SampleError as error:
            text, name = str(error), self.name(number)
            raise SampleError(text if name in text else f"{name}: {text}") from None

    def identity(self) -> list[object]:
        """Identity of the images' content, found without reading them."""
        return [[str(path), *file_identity(path)] for path in self.paths]


class ShardImages:
    """Images of shards, by number."""

    def __init__(self, images: Images, config: Config, size: tuple[int, int]) -> None:
        self.images, self.config, self.size = images, config, size

    def __len__(self) -> int:
        return len(self.images.manifest)

    def name(self, number: int) -> str:
        """Key of the sample and, on a line of its own, its class where it has one."""
        return sample_name(self.images.manifest, number)

    def decoded(self, number: int) -> Tensor:
        """Image [c h w]; SampleError for a bad one."""
        return self.images.covering(number, self.size)

    def view(self, number: int, size: tuple[int, int]) -> Tensor:
        """Centred view [c h w] of `size`; raises as `decoded`."""
        return evaluation_view(self.decoded(number), size, self.config)

    def identity(self) -> list[object]:
        """Identity of the images' content."""
        second = self.images.manifest.second
        return [self.images.manifest.fingerprint, second.fingerprint if second else None]


NumberedImages = FileImages | ShardImages


class Loaded(NamedTuple):
    """Centred views of images, and their names."""

    images: Tensor
    """uint8 or uint16 [b c h w]"""
    names: list[str]
    first: Tensor
    """the first image [c h w] as decoded"""
    numbers: list[int]
    """numbers of the images"""
    bad: list[str]
    """defects of images that were skipped"""


def open_numbered(
    sources: Sequence[str], config: Config, size: tuple[int, int], with_second: bool = False
) -> NumberedImages:
    """Image files, or images of shards.  Raises UserError as `open_images`."""
    if all(map(is_image_file, sources)):
        return FileImages([Path(source) for source in sources], config)
    return ShardImages(open_images(sources, "images", config, with_second), config, size)


def load_images(
    found: NumberedImages,
    size: tuple[int, int],
    limit: int,
    log: Callable[[str], None] = print_error,
) -> Loaded:
    """The first `limit` usable images, as centred views of `size` pixels; others are named.

    Raises UserError where a file cannot be read, no image is usable, or one is compressed with loss
    and must not be.
    """
    first = None
    views: dict[int, Tensor] = {}
    bad: list[str] = []
    for number in range(len(found)):
        try:
            views[number] = found.view(number, size)
        except SampleError as error:
            bad.append(str(error))
            continue
        first = found.decoded(number) if first is None else first
        if len(views) == limit:
            break
    if first is None:
        none = f"none of {len(bad)} images is usable, first " if len(bad) > 1 else ""
        raise UserError(f"{none}{bad[0]}")
    for reason in bad:
        log(f"skipped  {reason}")
    names = [found.name(number) for number in views]
    return Loaded(stack(list(views.values())), names, first, list(views), bad)


def numbers_of(found: ShardImages, wanted: Sequence[str]) -> list[int]:
    """Numbers of the samples of --shards that `wanted` names: each a key, else a number from 0.

    A key may lack its folders.  Raises UserError where there is no such sample, or several have
    the key.
    """
    manifest, total, names = found.images.manifest, len(found), set(wanted)
    places: dict[str, list[int]] = {}
    # Shard by shard: `Manifest.key` splits the joined keys of a shard in each call.
    for first, keys in zip(manifest.first.tolist(), manifest.keys, strict=True):
        for number, key in enumerate(keys.split(b"\0"), first):
            whole = printable(key.decode("utf-8", "backslashreplace"))
            for name in {whole, whole.rpartition("/")[2]} & names:
                places.setdefault(name, []).append(number)
    numbers = []
    for name in wanted:
        known = places.get(name, [])
        if len(known) > 1:
            raise UserError(
                f"--shards: {len(known)} images have the key {printable(name)}: give their "
                f"numbers, such as {known[0]} and {known[1]}"
            )
        if not known and not (name.isdecimal() and int(name) < total):
            raise UserError(
                f"--shards: no image has the key {printable(name)}, nor is it a number from 0 to "
                f"{total - 1:,}"
            )
        numbers.append(known[0] if known else int(name))
    return numbers


def load_named(
    wanted: Sequence[str], shards: Sequence[str] | None, config: Config, size: tuple[int, int]
) -> tuple[Tensor, list[str]]:
    """Centred views [b c *size] of image files, or of samples of `shards`, and their names.

    Raises UserError where one is not there or cannot be used.
    """
    if shards:
        found = ShardImages(open_images(shards, "--shards", config), config, size)
        numbers = numbers_of(found, wanted)
    else:
        if other := [one for one in wanted if not is_image_file(one)]:
            raise UserError(
                f"{printable(other[0])}: is no image file; images of shards are named by key or "
                "number, with --shards SHARDS"
            )
        found, numbers = FileImages([Path(one) for one in wanted], config), range(len(wanted))
    views = [found.view(number, size) for number in numbers]
    return stack(views), [found.name(number) for number in numbers]
