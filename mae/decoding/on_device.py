"""JPEG decoding on the training device with NVIDIA's nvImageCodec.

On a GPU nvJPEG decodes, whose pixels differ slightly from libjpeg-turbo's; on the CPU
libjpeg-turbo does, with the same pixels as `mae.decoding.decode` for undamaged JPEGs.
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
from mae.decoding.jpeg import jpeg_header

END_OF_IMAGE = b"\xff\xd9"
INSTALL_HINT = "pip install 'maekit[decode-on-device]' (CUDA 12: 'nvidia-nvimgcodec-cu12[nvjpeg]')"


class JpegFile(NamedTuple):
    """Encoded JPEG that is decoded on the device."""

    data: bytes | bytearray
    shape: tuple[int, int, int]
    """shape of the pixels: requested channels, height, width"""


def jpeg_for_device(data: bytes | bytearray, channels: int) -> JpegFile | None:
    """JPEG to decode on the device: gray or YCbCr, and complete to its end-of-image marker.

    None for other files, which `decode` decodes or refuses.
    """
    header = jpeg_header(data)
    if header is None or header.space not in ("Gray", "YCbCr") or data[-2:] != END_OF_IMAGE:
        return None
    return JpegFile(data, (channels, header.height, header.width))


class JpegDecoder:
    """Decoder of batches of JPEGs on `device`, a GPU or the CPU, to 1 or 3 channels."""

    def __init__(self, device: torch.device, channels: int) -> None:
        """Raises UserError where nvImageCodec is missing or does not work on `device`."""
        os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # failed images are returned as None
        self.device = device
        with _captured_stderr() as captured:
            try:
                codec = import_module("nvidia.nvimgcodec")
                self.params, self.decoder = _build(codec, device, channels)
                (works,) = self([simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))])
            except ModuleNotFoundError:
                message = f"decoding on the device needs nvImageCodec: {INSTALL_HINT}"
                raise UserError(message) from None
            except (ImportError, RuntimeError) as error:
                raise UserError(f"nvImageCodec on {device}: {error} {captured()}") from None
            if works is None:
                raise UserError(f"nvImageCodec decodes no JPEG on {device}: {captured()}")

    def __call__(self, files: Sequence[bytes | np.ndarray]) -> list[Tensor | None]:
        """Decode each file to uint8 [h w c] on the device; None for files that do not decode.

        On a GPU the work is queued on the current stream.  Raises UserError where the device
        itself fails, for lack of memory for example.
        """
        is_cuda = self.device.type == "cuda"
        stream = torch.cuda.current_stream(self.device).cuda_stream if is_cuda else 0
        try:
            images = self.decoder.decode(list(files), params=self.params, cuda_stream=stream)
        except RuntimeError as error:
            raise UserError(f"nvImageCodec on {self.device}: {error}") from None
        # Stream -1: no synchronisation, since decoding ran on the current stream.
        return [
            None if image is None else from_dlpack(image.to_dlpack(cuda_stream=-1))
            for image in images
        ]


def _build(codec: Any, device: torch.device, channels: int) -> tuple[Any, Any]:
    """Build nvImageCodec's decoding parameters and decoder."""
    gray = channels == 1
    params = codec.DecodeParams(
        apply_exif_orientation=False,
        color_spec=codec.ColorSpec.GRAY if gray else codec.ColorSpec.SRGB,
        sample_format=codec.SampleFormat.I_Y if gray else codec.SampleFormat.I_RGB,
    )
    kinds, number = [codec.CPU_ONLY], codec.NVIMGCODEC_DEVICE_CPU_ONLY
    if device.type == "cuda":
        # Each backend decodes the files that those before it do not support.  That depends on the
        # file alone, so an image is always decoded by the same backend.
        kinds = [codec.HW_GPU_ONLY, codec.GPU_ONLY, codec.HYBRID_CPU_GPU]
        number = torch.cuda.current_device() if device.index is None else device.index
    backends = [codec.Backend(kind) for kind in kinds]
    # Interpolated chroma, as in libjpeg-turbo.
    return params, codec.Decoder(device_id=number, backends=backends, options=":fancy_upsampling=1")


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Capture the process's stderr; yields a function that returns the text in one line.

    nvImageCodec writes there that it lacks libraries which are not needed here.
    """
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:

            def captured() -> str:
                kept.seek(0)
                return " ".join(kept.read().decode(errors="replace").split())

            yield captured
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
