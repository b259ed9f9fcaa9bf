"""The names of the original release: for mmsegmentation, detectron2, and code built on these.

As in the paper's figure 1 and section 3: `cls_token`, `blocks.N.*`, `mask_token`,
`decoder_blocks.N.*` and so on, in one flat dictionary.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.export.subject import Subject, Written, expect_features, refuse_options, weights
from mae.export.timm import timm_config
from mae.objectives.mae.declaration import model_of
from mae.objectives.mae.decoder import Decoder
from mae.objectives.mae.export import expect_prediction, mae_of, named_decoder
from mae.objectives.mae.loaders import load_original
from mae.objectives.mae.plain_vit import refuse_beyond_plain

WEIGHTS = "mae.safetensors"
PICKLED = "mae.pth"

FILES = f"""\
`{WEIGHTS}` and `{PICKLED}` (a dictionary `model`, loads with `weights_only=True`) hold the same
tensors, in the names of the original release: {{what}}."""

MASK_TOKEN = """
(timm takes a file with a mask token for DINOv2's: export with `--no-decoder` for it.)"""

CODE = """\
import torch

weights = torch.load("FOLDER/mae.pth", weights_only=True)["model"]
print(model.load_state_dict(weights, strict=False))  # the model of your tool; read what it prints
"""


def write_original(folder: Path, subject: Subject, images: Tensor) -> Written:
    """mae.safetensors and mae.pth, with the decoder or (for fine-tuning tools) without."""
    vit, model = subject.encoder, mae_of(subject)
    refuse_options(subject, "mae", {"--pool": "its users pool themselves"})
    refuse_beyond_plain(vit, "mae")
    decoder, remarks = named_decoder(subject, "mae")
    tensors = original_names(vit, decoder)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    torch.save({"model": tensors}, folder / PICKLED)
    normalised = subject.normalize(images)
    given, expected = {"images": normalised}, expect_features(subject, normalised)
    if decoder:
        noise, prediction = expect_prediction(model, normalised)
        given, expected = given | noise, expected | prediction
    return Written(
        given=given,
        expected=expected,
        tolerance=1e-5,
        reader="timm",
        files=FILES.format(what="encoder and decoder" if decoder else "the encoder only")
        + (MASK_TOKEN if decoder else ""),
        code=CODE,
        loader=load_original,
        library="pytorch",
        notes=notes_of(subject),
        remarks=remarks,
    )


def notes_of(subject: Subject) -> dict[str, str]:
    """Settings for the loaders, which know tensors only."""
    return {
        "pool": str(subject.pool),
        "prefix": str(subject.encoder.num_prefix_tokens),
        "decoder_num_heads": str(model_of(subject.config).decoder_num_heads),
        "architecture": json.dumps(timm_config(subject)),
    }


def original_names(vit: VisionTransformer, decoder: Decoder | None) -> dict[str, Tensor]:
    """One flat state dict; the encoder's names are timm's."""
    tensors = weights(vit)
    if decoder is None:
        return tensors
    for name, tensor in weights(decoder).items():
        if name == "mask_token":
            tensors[name] = tensor
        elif name == "pos_embed":  # there with a row for the class token, which is zero
            tensors["decoder_pos_embed"] = torch.cat([torch.zeros_like(tensor[:, :1]), tensor], 1)
        else:
            tensors[f"decoder_{name}"] = tensor
    return tensors
