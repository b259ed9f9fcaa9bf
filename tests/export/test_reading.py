"""The printed code and the foreign libraries' own preprocessing, on photograph files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor

from mae.base.errors import RunFailed
from mae.data.transform import center_view
from mae.export.folder import place
from mae.export.huggingface import processor_config
from mae.export.reading import pillow_view, pixels_code
from mae.export.timm import timm_config
from tests.export.models import export_request, exported

SIZES = (32, 96, 224, 256, 384)
LEVELS = 255 * 0.25
"""normalised units, of the deviation 0.25, in units of one of 255 levels"""


@pytest.fixture(scope="module")
def files(shared_data):
    """Photographs, one lying and one standing."""
    return shared_data / "kodak" / "01.png", shared_data / "kodak" / "04.png"


def request_of(size, crop_pct, in_chans=3, bits=8):
    """Request of a model whose images are normalised by 0.5 and 0.25."""
    request = export_request(in_chans=in_chans, bits=bits, img_size=(size, size))
    numbers = {"mean": (0.5,) * in_chans, "std": (0.25,) * in_chans, "crop_pct": crop_pct}
    data = request.config.data.model_copy(update=numbers)
    return request._replace(config=request.config.model_copy(update={"data": data}))


def opened(path, mode="RGB"):
    with Image.open(path) as image:
        return image.convert(mode)


def channels_first(image):
    return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "in_chans", "mode", "crop_pct"),
    [(size, 3, "RGB", crop_pct) for size in SIZES for crop_pct in (0.875, None)]
    + [(96, 3, "RGB", 0.9), (256, 3, "RGB", 0.95), (32, 1, "L", 0.875), (224, 1, "L", 1.0)],
)
def test_all_libraries_see_the_same_pixels_of_a_photograph(
    files, tmp_path, size, in_chans, mode, crop_pct
):
    request = request_of(size, crop_pct, in_chans)
    settings: dict[str, Any] = timm.data.resolve_data_config(timm_config(request)["pretrained_cfg"])
    transform: Any = timm.data.create_transform(**settings)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(processor_config(request.config.data, request.model.img_size))
    )
    exact = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    usual = AutoImageProcessor.from_pretrained(tmp_path)
    for path in files:
        image = opened(path, mode)
        pixels = channels_first(image)
        by_timm = transform(image)

        def normalised(view):
            return request.normalize(view[None])[0]

        # Pillow resizes in all of these: equal up to the rounding of the normalisation.
        expected = normalised(pillow_view(pixels, (size, size), crop_pct))
        torch.testing.assert_close(by_timm, expected, rtol=0, atol=1e-5)
        # The place of transformers' crop is rounded down.
        expected = normalised(pillow_view(pixels, (size, size), crop_pct, rounds_down=True))
        found = exact(images=image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        # torch resizes in these: a level of 255 off in few pixels.
        found = usual(images=image, return_tensors="pt")["pixel_values"][0]
        assert_close_levels(found, expected)
        assert_close_levels(normalised(center_view(pixels, (size, size), crop_pct)), by_timm)


def assert_close_levels(found, expected):
    off = (found - expected).abs() * LEVELS
    assert off.max() < 2.01 and (off > 0.5).float().mean() < 0.01


KINDS = [(3, 8, None), (5, 8, None), (1, 16, None), (1, 8, None), (3, 16, None), (3, 8, (16, 24))]
"""channels, bits, size; ONNX and torch.export, slow to trace, print the same code as `mae`"""

CASES = [(format, *kind) for format in ("timm", "mae", "plain") for kind in KINDS]
CASES += [(format, *kind) for format in ("onnx", "torch") for kind in KINDS[:3]]
CASES += [("hf", *kind) for kind in KINDS if kind[1] == 8]


@pytest.mark.parametrize(("format", "in_chans", "bits", "img_size"), CASES)
def test_printed_code_runs_as_printed(
    tmp_path, monkeypatch, in_process, format, in_chans, bits, img_size
):
    """On an image file beside it, in any place: nothing else is filled in."""
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    request = export_request(
        in_chans=in_chans, bits=bits, img_size=img_size, decoder=img_size is None
    )
    photograph = write_image(tmp_path, in_chans, bits)
    if format == "plain":
        request = request._replace(decoder=True)
    done = exported(format, request._replace(photograph=photograph), tmp_path / 'ex"port')
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(done.code, names)
    view = center_view(photograph, request.model.img_size, None)[None]
    vectors = request.model.encode(view).pooled
    if format == "plain":
        found, ours = names["features"].pooled["cls"], vectors["cls"]
    else:
        tokens = torch.as_tensor(names["tokens"])
        found, ours = tokens[:, 0], vectors["cls"]
        shown = torch.as_tensor(names["images"])
        off = (shown - request.normalize(view)).abs() * request_std(request)
        assert off.max() * 255 < 4  # torch and Pillow
    torch.testing.assert_close(found, ours, rtol=0, atol=0.05)


def test_printed_code_gives_tokens_by_rows_and_says_what_the_vector_is(
    tmp_path, monkeypatch, in_process
):
    """timm's Hiera has its tokens by mask units, not normalised, and a norm of their mean."""
    sizes = {"num_heads": 1, "stages": [1, 2, 2], "q_pool": 1}
    request = export_request(encoder="hiera_tiny_224", kwargs=sizes, patch_size=4)
    photograph = write_image(tmp_path, 3, 8)
    for form in ("timm", "torch"):
        request = request._replace(photograph=photograph)
        done = exported(form, request, tmp_path / form)
        card = (tmp_path / form / "README.md").read_text()
        assert "the norm of the mean of the last tokens" in card and "0 + " not in card
        monkeypatch.chdir(tmp_path)
        names: dict[str, Any] = {}
        exec(done.code, names)
        ours = request.model.encode(center_view(photograph, (16, 16), None)[None])
        found = names["vector"] if form == "timm" else names["pooled"]
        torch.testing.assert_close(found, ours.pooled["mean"], rtol=0, atol=0.05)
        torch.testing.assert_close(names["tokens"], ours.tokens, rtol=0, atol=0.1)


def test_deep_images_are_read_from_tiff_where_that_can_be(monkeypatch):
    assert 'Image.open("image.tif")' in pixels_code(1, 16).expression
    monkeypatch.setattr("mae.export.reading.find_spec", lambda name: None)
    assert pixels_code(3, 16) == ("", 'np.load("image.npy")')
    assert 'Image.open("image.tif")' in pixels_code(1, 16).expression
    monkeypatch.setattr("mae.export.reading.find_spec", lambda name: name)
    assert pixels_code(3, 16) == ("import tifffile\n", 'tifffile.imread("image.tif")')
    assert 'np.load("image.npy")' in pixels_code(1, 32).expression


def request_std(request):
    return torch.tensor(request.config.data.std)[:, None, None]


def write_image(folder: Path, in_chans: int, bits: int) -> torch.Tensor:
    """Write a smooth image under the names in the printed code; returns it as decoded."""
    y, x = np.mgrid[0:1:37j, 0:1:50j]
    bands = [np.sin(3 * y + i) * np.cos(4 * x - i) / 2 + 0.5 for i in range(in_chans)]
    white = 2**bits - 1
    pixels = (np.stack(bands, axis=-1) * white).astype(np.uint8 if bits == 8 else np.uint16)
    np.save(folder / "image.npy", pixels)
    if bits == 16 and in_chans == 1:
        Image.fromarray(pixels[..., 0]).save(folder / "image.tif")
    if bits == 16 and in_chans > 1:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(folder / "image.tif", pixels)
    if bits == 8 and in_chans in (1, 3):
        picture = Image.fromarray(pixels[..., 0] if in_chans == 1 else pixels)
        picture.save(folder / "image.jpg", format="PNG")
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("format", ["timm", "hf"])
def test_export_that_reads_photographs_otherwise_is_not_written(
    tmp_path, in_process, monkeypatch, format
):
    """Its weights are right, and its features of every photograph would be wrong."""
    monkeypatch.setattr("mae.export.timm.choose_crop_pct", lambda chosen, size: 0.7)
    monkeypatch.setattr("mae.export.huggingface.choose_crop_pct", lambda chosen, size: 0.7)
    request = export_request()._replace(photograph=write_image(tmp_path, 3, 8))
    with pytest.raises(RunFailed, match="computes other input of a photograph"):
        exported(format, request, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_names_of_folders_are_quoted():
    code = place('open("FOLDER/a")', {"FOLDER": 'x"y\\z'})
    assert code == 'open("x\\"y\\\\z/a")'
