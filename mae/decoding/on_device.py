"""JPEGs decoded where the model runs, by NVIDIA's nvImageCodec.

On a GPU that is nvJPEG, whose pixels are not quite libjpeg-turbo's; on the CPU it is libjpeg-turbo
itself, with the same pixels as `decode`.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from mae.decoding.decode import jpeg_header
from mae.errors import UserError

END_OF_IMAGE = b"\xff\xd9"
NO_CODEC = (
    "data.decode_on_device: needs nvImageCodec: pip install 'mae[decode-on-device]' "
    "(CUDA 12: 'nvidia-nvimgcodec-cu12[nvjpeg]')"
)


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
        try:
            nvimgcodec = import_module("nvidia.nvimgcodec")
        except ImportError:
            raise UserError(NO_CODEC) from None
        gray = channels == 1
        self.device = device
        self.params = nvimgcodec.DecodeParams(
            apply_exif_orientation=False,
            color_spec=nvimgcodec.ColorSpec.GRAY if gray else nvimgcodec.ColorSpec.SRGB,
            sample_format=nvimgcodec.SampleFormat.I_Y if gray else nvimgcodec.SampleFormat.I_RGB,
        )
        kinds, number = [nvimgcodec.CPU_ONLY], nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY
        if device.type == "cuda":
            # Each takes what those before it do not know; by the file alone, so that an image is
            # always decoded by the same one.
            kinds = [nvimgcodec.HW_GPU_ONLY, nvimgcodec.GPU_ONLY, nvimgcodec.HYBRID_CPU_GPU]
            number = torch.cuda.current_device() if device.index is None else device.index
        with _errors_kept() as said:
            self.decoder = nvimgcodec.Decoder(
                device_id=number,
                backends=[nvimgcodec.Backend(kind) for kind in kinds],
                options=":fancy_upsampling=1",  # as libjpeg-turbo interpolates chroma
            )
            (works,) = self([simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))])
            if works is None:
                raise UserError(
                    f"data.decode_on_device: nvImageCodec decodes no JPEG on {device}: {said()}"
                )

    def __call__(self, files: Sequence[bytes | np.ndarray]) -> list[Tensor | None]:
        """uint8 [h w c] on the device for each file, None for what it cannot decode.

        On a GPU this is work of the current stream.
        """
        is_cuda = self.device.type == "cuda"
        stream = torch.cuda.current_stream(self.device).cuda_stream if is_cuda else 0
        images = self.decoder.decode(list(files), params=self.params, cuda_stream=stream)
        # Its images of main memory speak DLPack only where there is a GPU.
        read = torch.from_dlpack if is_cuda else lambda image: torch.from_numpy(np.asarray(image))
        return [None if image is None else read(image) for image in images]


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
