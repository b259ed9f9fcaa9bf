"""Format diffusers of a VQ-VAE with the networks of latent diffusion: a folder for VQModel."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.export.contract import ExportFiles, ExportRequest, weights
from mae.export.reading import expected_photograph, prepare_code
from mae.networks.latent_diffusion import LdmSettings, require_diffusers
from mae.objectives.autoencoders.discrete import DiscreteAutoencoder
from mae.objectives.autoencoders.export import CODE_AGREEMENT, in_two_batches, refuse
from mae.objectives.vqvae.declaration import vqvae_model

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


def ldm_settings(request: ExportRequest) -> LdmSettings:
    """Sizes of the networks.  Raises UserError for other networks."""
    model = vqvae_model(request.config)
    if model.backbone != "ldm":
        raise UserError(
            "--format diffusers: needs the networks of latent diffusion; this run has "
            f"model.backbone={model.backbone}: train with model.backbone=ldm, or export plain"
        )
    return LdmSettings(
        in_channels=request.config.data.in_chans,
        latent_channels=model.latent_dim,
        width=model.width,
        stages=model.stages,
        depth=model.depth,
    )


@torch.no_grad()
def write_diffusers(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write a folder for diffusers' VQModel.

    Raises UserError for other networks than those of latent diffusion, or without diffusers.
    """
    refuse(request, "diffusers")
    settings = ldm_settings(request)
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
    theirs.load_state_dict(renamed(weights(ours)), strict=True)
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


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict with the names of diffusers' VQModel."""
    names = {
        "bottleneck.to_latent.layer": "quant_conv",
        "bottleneck.codebook": "quantize.embedding.weight",
        "from_latent.layer": "post_quant_conv",
    }
    found = {}
    for key, tensor in tensors.items():
        start = next((one for one in names if key.startswith(one)), None)
        if start is not None:
            found[names[start] + key.removeprefix(start)] = tensor
        elif key.startswith(("encoder.", "decoder.")):
            found[key] = tensor
    return found


def load_diffusers(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Codes and pictures through VQModel; ValueError where tensors are missing in the file."""
    from diffusers import VQModel

    library: Any = VQModel
    model, info = library.from_pretrained(folder, output_loading_info=True)
    if odd := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
        raise ValueError(f"{odd[0]} is missing or does not fit")
    model = model.eval()
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
