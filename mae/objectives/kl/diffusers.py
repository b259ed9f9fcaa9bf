"""Folders of diffusers' AutoencoderKL: as export, and as initial weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import Config
from mae.export.contract import ExportFiles, ExportRequest, weights
from mae.export.reading import expected_photograph, prepare_code
from mae.networks.latent_diffusion import require_diffusers
from mae.objectives.autoencoders.backbones import ldm_settings
from mae.objectives.autoencoders.diffusers import LAYERS, open_whole, renamed
from mae.objectives.autoencoders.export import in_two_batches, refuse
from mae.objectives.kl.model import KlAutoencoder
from mae.objectives.kl.scale import exported_scale
from mae.pretrained_weights.fit import LoadedTensors, abbreviate
from mae.pretrained_weights.init_record import (
    InitialWeights,
    WeightsSource,
    record_initial_weights,
)
from mae.pretrained_weights.licence import folder_licence
from mae.pretrained_weights.weight_files import sha256_of

CLASS, FILE = "AutoencoderKL", "diffusion_pytorch_model.safetensors"

REQUIRED = {"act_fn": "silu", "mid_block_add_attention": True}
"""settings of a folder to start from that have only one supported value, diffusers' default"""

DEFAULTS = {
    "layers_per_block": 1,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
}
"""diffusers' defaults of settings that a folder may lack"""

OPTIONAL = ("quant_conv.", "post_quant_conv.")
"""layers that a folder may lack, as FLUX's"""

FILES = """\
`config.json` and `diffusion_pytorch_model.safetensors` are those of diffusers' `AutoencoderKL`. It
takes and gives images normalised by mean and standard deviation (below), whose sides divide by
{side}: of others it drops the last pixels without a word. {scale}"""

CODE = """\
{imports}from diffusers import AutoencoderKL
{define}
model = AutoencoderKL.from_pretrained("FOLDER")
{read}latents = (model.encode(images).latent_dist.mode(){minus}) * model.config.scaling_factor
pictures = model.decode(latents / model.config.scaling_factor{plus}).sample  # normalised
"""


@torch.no_grad()
def write_diffusers(folder: Path, request: ExportRequest, images: Tensor) -> ExportFiles:
    """Write a folder for diffusers' AutoencoderKL.  Raises UserError without diffusers."""
    refuse(request, "diffusers")
    require_diffusers()
    from diffusers import AutoencoderKL

    ours, data = request.model, request.config.data
    assert isinstance(ours, KlAutoencoder)
    settings, scale = ldm_settings(request.config), exported_scale(ours, request.config)
    chosen: dict[str, Any] = {**settings.model_settings(), **scale.settings}
    theirs: Any = AutoencoderKL(**chosen, sample_size=max(ours.img_size))
    theirs.load_state_dict(renamed(weights(ours), LAYERS), strict=True)
    theirs.save_pretrained(folder)
    normalised = request.normalize(images)
    latents = ours.latents(normalised)
    shifts = [f" {sign} model.config.shift_factor" for sign in "-+"]
    minus, plus = shifts if scale.settings.get("shift_factor") else ("", "")
    prepared = prepare_code(request, as_tensor=True)._asdict()
    code = CODE.format(**prepared, minus=minus, plus=plus)
    is_usual = set(data.mean) == set(data.std) == {0.5}
    remark = (
        "diffusers' pipelines normalise images by mean 0.5 and std 0.5; this model was trained "
        f"with mean {list(data.mean)}, std {list(data.std)}: normalise before encoding yourself"
    )
    return ExportFiles(
        inputs={"images": normalised, "latents": latents},
        expected={
            "latents": latents,
            "pictures": ours.decoder(ours.from_latent(latents)),
            **expected_photograph(request),
        },
        tolerance=1e-4,
        reader="diffusers",
        files=FILES.format(side=2**settings.stages, scale=scale.words),
        code=code,
        loader=load_diffusers,
        library="diffusers",
        part="autoencoder",
        remarks=() if is_usual else (remark,),
    )


def load_diffusers(
    folder: Path, inputs: dict[str, Tensor], settings: dict[str, str]
) -> dict[str, Tensor]:
    """Latents (their means) and pictures, by diffusers alone."""
    from diffusers import AutoencoderKL

    model = open_whole(AutoencoderKL, folder)
    return {
        "latents": in_two_batches(lambda x: model.encode(x).latent_dist.mode(), inputs["images"]),
        "pictures": in_two_batches(lambda z: model.decode(z).sample, inputs["latents"]),
    }


def find_folder(source: str) -> Path | None:
    """Folder of an AutoencoderKL: `source`, or vae/ in it, as in a pipeline; None: there is none.

    A file of weights stands for its folder.
    """
    path = Path(source).expanduser()
    folders = [path.parent] if path.is_file() else [path, path / "vae"]
    for folder in folders:
        if (folder / "config.json").is_file():
            content = read_json(folder / "config.json")
            if content.get("_class_name") == CLASS:
                return folder
    return None


@torch.no_grad()
def load_initial(objective: KlAutoencoder, config: Config) -> InitialWeights | None:
    """Load the weights of an AutoencoderKL; None where init.from is no folder of one.

    Raises UserError where its sizes are other than the settings', or it cannot be read.
    """
    source = config.init.from_
    folder = find_folder(source)
    if folder is None:
        return None
    require_diffusers()
    from diffusers import AutoencoderKL

    where = f"init.from: {source}"
    if odd := list(other_settings(read_json(folder / "config.json"), config)):
        raise UserError(f"{where} has other networks: {'; '.join(odd)}")
    if not (folder / FILE).exists():
        raise UserError(f"{where} has no {FILE}: save it with safetensors")
    try:
        theirs = open_whole(AutoencoderKL, folder)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{where} cannot be loaded: {' '.join(str(error).split())}") from None
    notes = []
    for layer, name in (
        (objective.bottleneck.to_latent.layer, "quant_conv"),
        (objective.from_latent.layer, "post_quant_conv"),
    ):
        if getattr(theirs, name) is None:  # as in FLUX
            assert layer.bias is not None
            torch.nn.init.dirac_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
            notes.append(f"without {name}: ours starts as the identity")
    tensors = theirs.state_dict()
    if bad := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"{where}: damaged: {bad[0]} holds numbers that are not finite")
    ours = objective.state_dict()
    names = {key: name for key in ours for name in renamed({key: ours[key]}, LAYERS)}
    lacking = [name for name in names.values() if name not in tensors]
    if lacking := [name for name in lacking if not name.startswith(OPTIONAL)]:
        raise UserError(f"{where} lacks {abbreviate(lacking)} of this run's networks")
    if unused := [name for name in tensors if name not in names.values()]:
        raise UserError(f"{where}: {abbreviate(unused)} has no place in this run's networks")
    given = {key: tensors[name] for key, name in names.items() if name in tensors}
    objective.load_state_dict(given, strict=False)
    objective.keep_scale(theirs.config)
    objective.after_load()
    if set(config.data.mean) != {0.5} or set(config.data.std) != {0.5}:
        notes.append("diffusers' models expect data.mean and data.std of 0.5 in every channel")
    licence = folder_licence(folder, source)
    parts = {"": LoadedTensors(len(given), len(tensors), (), {}, ())}
    found = WeightsSource(source, sha256_of(folder / FILE), licence, None)
    return record_initial_weights(found, parts, {}, [], notes)


def other_settings(theirs: dict[str, Any], config: Config) -> Iterator[str]:
    """Settings of a diffusers folder that this run's networks do not have, with the remedy."""
    settings = ldm_settings(config)
    widths = theirs.get("block_out_channels", [64])
    is_list = isinstance(widths, list) and all(type(one) is int and one > 0 for one in widths)
    if not is_list or len(widths) < 2:
        yield f"block_out_channels {widths} (only lists of two widths or more are supported)"
        return
    stages = len(widths) - 1
    like = settings._replace(width=widths[0], stages=stages)
    if widths != list(settings.block_out_channels):
        remedy = f"set model.width={widths[0]} model.stages={stages}"
        if list(like.block_out_channels) != widths:
            remedy = "no settings make these"
        yield f"block_out_channels {widths} ({remedy})"
    for key, ours, setting in (
        ("layers_per_block", settings.depth, "model.depth"),
        ("latent_channels", settings.latent_channels, "model.latent_dim"),
        ("in_channels", settings.in_channels, "data.in_chans"),
        ("out_channels", settings.in_channels, "data.in_chans"),
    ):
        value = theirs.get(key, DEFAULTS[key])
        if value != ours:
            yield f"{key} {value} (set {setting}={value})"
    needed = {
        "norm_num_groups": like.norm_num_groups,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }
    for key, ours in needed.items():
        value = theirs.get(key, DEFAULTS[key])
        if value != ours:
            yield f"{key} {value} (only {ours} is supported)"
    for key in ("latents_mean", "latents_std"):
        value = theirs.get(key)
        if value is not None and len(value) != settings.latent_channels:
            yield f"{key} of {len(value)} channels (not {settings.latent_channels})"
    for key, value in REQUIRED.items():
        if theirs.get(key, value) != value:
            yield f"{key} {theirs[key]} (only {value} is supported)"
