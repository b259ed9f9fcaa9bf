"""JPEGs decoded where the model runs, by NVIDIA's nvImageCodec.

On a GPU that is nvJPEG, whose pixels are not quite libjpeg-turbo's; on the CPU it is libjpeg-turbo
itself, with the same pixels as `decode` for sound JPEGs.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mae.base.errors import UserError
from mae.decoding.decode import jpeg_header

END_OF_IMAGE = b"\xff\xd9"
INSTALL = "pip install 'mae[decode-on-device]' (CUDA 12: 'nvidia-nvimgcodec-cu12[nvjpeg]')"


class JpegFile(NamedTuple):
    """A JPEG that is left to a device."""

    data: bytes | bytearray
    shape: tuple[int, int, int]
    """channels wanted, height, width"""


def left_to_device(data: bytes | bytearray, channels: int) -> JpegFile | None:
    """The JPEG, if a device may decode it: gray or YCbCr, and whole to its end.

    None of all else: `decode` knows what to do, and refuses what is cut off.
    """
    header = jpeg_header(data)
    if header is None or header.space not in ("Gray", "YCbCr") or data[-2:] != END_OF_IMAGE:
        return None
    return JpegFile(data, (channels, header.height, header.width))


class JpegDecoder:
    """Decodes batches of JPEGs on `device`, a GPU or the CPU, to 1 or 3 channels."""

    def __init__(self, device: torch.device, channels: int) -> None:
        """Raises UserError where nvImageCodec is missing or does not work on `device`."""
        os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # what fails is told by None
        self.device = device
        with _errors_kept() as said:
            try:
                codec = import_module("nvidia.nvimgcodec")
                self.params, self.decoder = _build(codec, device, channels)
                (works,) = self([simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))])
            except ModuleNotFoundError:
                raise UserError(f"decoding on the device needs nvImageCodec: {INSTALL}") from None
            except (ImportError, RuntimeError) as error:
                raise UserError(f"nvImageCodec on {device}: {error} {said()}") from None
            if works is None:
                raise UserError(f"nvImageCodec decodes no JPEG on {device}: {said()}")

    def __call__(self, files: Sequence[bytes | np.ndarray]) -> list[Tensor | None]:
        """uint8 [h w c] on the device for each file, None for what it cannot decode.

        On a GPU this is work of the current stream.  Raises UserError where the device itself
        fails, as for lack of memory.
        """
        is_cuda = self.device.type == "cuda"
        stream = torch.cuda.current_stream(self.device).cuda_stream if is_cuda else 0
        try:
            images = self.decoder.decode(list(files), params=self.params, cuda_stream=stream)
        except RuntimeError as error:
            raise UserError(f"nvImageCodec on {self.device}: {error}") from None
        # Stream -1: no further waiting, since decoding was this stream's work.
        return [
            None if image is None else from_dlpack(image.to_dlpack(cuda_stream=-1))
            for image in images
        ]


def _build(codec: Any, device: torch.device, channels: int) -> tuple[Any, Any]:
    """Parameters and decoder."""
    gray = channels == 1
    params = codec.DecodeParams(
        apply_exif_orientation=False,
        color_spec=codec.ColorSpec.GRAY if gray else codec.ColorSpec.SRGB,
        sample_format=codec.SampleFormat.I_Y if gray else codec.SampleFormat.I_RGB,
    )
    kinds, number = [codec.CPU_ONLY], codec.NVIMGCODEC_DEVICE_CPU_ONLY
    if device.type == "cuda":
        # Each takes what those before it do not know; by the file alone, so that an image is
        # always decoded by the same one.
        kinds = [codec.HW_GPU_ONLY, codec.GPU_ONLY, codec.HYBRID_CPU_GPU]
        number = torch.cuda.current_device() if device.index is None else device.index
    backends = [codec.Backend(kind) for kind in kinds]
    # libjpeg-turbo interpolates chroma, too.
    return params, codec.Decoder(device_id=number, backends=backends, options=":fancy_upsampling=1")


@contextmanager
def _errors_kept() -> Iterator[Callable[[], str]]:
    """Keeps what libraries write to stderr: here, that they found no others, which nobody wants."""
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:

            def said() -> str:
                kept.seek(0)
                return " ".join(kept.read().decode(errors="replace").split())

            yield said
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
