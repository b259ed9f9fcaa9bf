"""Format diffusers of a VQ-VAE with the networks of latent diffusion: a folder for VQModel."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.export.contract import ExportFiles, ExportRequest, weights
from mae.export.reading import expected_photograph, prepare_code
from mae.networks.latent_diffusion import require_diffusers
from mae.objectives.autoencoders.backbones import ldm_settings
from mae.objectives.autoencoders.diffusers import LAYERS, open_whole, renamed
from mae.objectives.autoencoders.discrete import DiscreteAutoencoder
from mae.objectives.autoencoders.export import CODE_AGREEMENT, in_two_batches, refuse
from mae.objectives.vqvae.declaration import vqvae_model

NAMES = {**LAYERS, "bottleneck.codebook": "quantize.embedding.weight"}
"""names of our tensors, or of modules → theirs in VQModel"""

FILES = """\
`config.json` and `diffusion_pytorch_model.safetensors` are those of diffusers' `VQModel`; it takes
and gives images normalised by mean and standard deviation."""

CODE = """\
{imports}from diffusers import VQModel
{define}
model = VQModel.from_pretrained("FOLDER")
{read}latents = model.encode(images).latents
pictures = model.decode(latents).sample  # normalised
"""


@torch.no_grad()
def write_diffusers(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write a folder for diffusers' VQModel.

    Raises UserError for other networks than those of latent diffusion, or without diffusers.
    """
    refuse(request, "diffusers")
    backbone = vqvae_model(request.config).backbone
    if backbone != "ldm":
        raise UserError(
            "--format diffusers: needs the networks of latent diffusion; this run has "
            f"model.backbone={backbone}: train with model.backbone=ldm, or export plain"
        )
    settings = ldm_settings(request.config)
    require_diffusers()
    from diffusers import VQModel

    ours = request.model
    assert isinstance(ours, DiscreteAutoencoder)
    chosen: dict[str, Any] = settings.model_settings()
    height, _ = ours.img_size
    theirs: Any = VQModel(
        **chosen,
        num_vq_embeddings=ours.bottleneck.num_codes,
        vq_embed_dim=settings.latent_channels,
        sample_size=height,
    )
    theirs.load_state_dict(renamed(weights(ours), NAMES), strict=True)
    theirs.save_pretrained(folder)
    normalised = request.normalize(images)
    codes = ours.codes(normalised)
    pictures = ours.decoder(ours.from_latent(ours.bottleneck.embed(codes)))
    code = CODE.format(**prepare_code(request, as_tensor=True)._asdict())
    return ExportFiles(
        inputs={"images": normalised, "codes": codes},
        expected={
            "agreement": torch.ones(1),
            "pictures": pictures,
            **expected_photograph(request),
        },
        tolerance=1e-4,
        reader="diffusers",
        files=FILES,
        code=code,
        loader=load_diffusers,
        library="diffusers",
        part="autoencoder",
    )


def load_diffusers(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Codes and pictures through VQModel; ValueError where tensors are missing in the file."""
    from diffusers import VQModel

    model = open_whole(VQModel, folder)
    codes = inputs["codes"]

    def encode(images: Tensor) -> Tensor:
        latents = model.encode(images).latents
        return model.quantize(latents)[2][2].view(len(images), *codes.shape[1:])

    def decode(rows: Tensor) -> Tensor:
        shape = (len(rows), *rows.shape[1:], model.config.vq_embed_dim)
        latents = model.quantize.get_codebook_entry(rows.flatten(), shape)
        return model.decode(latents, force_not_quantize=True).sample

    same = (in_two_batches(encode, inputs["images"]) == codes).float().mean()
    agreement = torch.where(same >= CODE_AGREEMENT, 1.0, same)[None]
    return {"agreement": agreement, "pictures": in_two_batches(decode, codes)}
