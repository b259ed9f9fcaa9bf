"""Wrong settings of the autoencoders: refused in one line, before any training."""

import pytest

from mae.pretrain import main
from tests.objectives.autoencoders.recipes import words
from tests.objectives.autoencoders.small import small_config
from tests.untrained import untrained_run

VIT = "model.backbone=vit"
L1 = ("model.sparsity=l1", "model.backbone=linear")
TOKENIZER = "model.tokenizer={vqvae}"
ENCODER = "model.encoder={vit}"
UNCORRELATED = ["model.allow_correlated=false"]
PAIRED = ["model.method=noise2noise"]

CASES = [
    ("ae", ["model.stages=5"], "model.stages: 5 stages need sides that divide by 32"),
    ("ae", ["model.stages=100000"], "model.stages: 100000 should be less than or equal to 10"),
    ("ae", ["data.img_size=null"], "data.img_size: objective ae has no default size"),
    ("ae", ["model.latent_dim=768"], "model.latent_dim: 768 numbers per image are no bottleneck"),
    ("ae", ["model.latent=map", "model.latent_dim=48"], "no bottleneck for images of 768"),
    ("ae", [VIT, "model.latent=map", "model.latent_dim=900"], "3,600 numbers per image are no"),
    ("ae", [VIT, "model.patch_size=5"], "does not divide into patches of 5 x 5"),
    ("ae", [VIT, "model.encoder=resnet50"], "resnet50 is a ResNet, not timm's VisionTransformer"),
    ("ae", [VIT, "model.encoder_kwargs={in_chans: 1}"], "in_chans: is set elsewhere"),
    ("ae", ["model.width=12"], "model.width: 12 must be a multiple of 8"),
    ("ae", ["init.from={vqvae}"], "is of objective vqvae"),
    ("sparse", ["model.k=32"], "model.k: 32 of 32 latents are not sparse: choose fewer"),
    ("sparse", [*L1, "model.l1_weight=0", "model.latent_dim=768"], "no bottleneck"),
    ("sparse", ["model.sparsity=l1"], "model.sparsity: l1 penalises the size of latents"),
    ("vae", ["model.beta=0", "model.latent_dim=768"], "no bottleneck for images of 768"),
    ("vae", ["model.beta_warmup=1"], "model.beta_warmup: 1 should be less than 1"),
    ("aae", ["model.latent=map"], "model.latent: 'map' should be 'vector'"),
    ("aae", ["model.critic_width=7"], "model.critic_width: 7 must be even"),
    ("aae", ["model.adv=-1"], "model.adv: -1 should be greater than or equal to 0"),
    ("ladder", ["model.groups=[4]"], "model.groups: must name 2 to 5 groups, not 1"),
    ("ladder", ["model.groups=[4,4,4,4]"], "model.groups: 4 groups need sides that divide by 32"),
    ("ladder", ["model.groups=[4,0]"], "model.groups: 0 should be greater than 0"),
    ("ladder", ["model.beta=0"], "model.beta: 0 should be greater than 0"),
    ("ladder", ["model.latent_dim=16"], "model.latent_dim: model.groups has the numbers of the"),
    ("vqvae", ["model.latent=vector"], "model.latent: 'vector' should be 'map'"),
    ("vqvae", ["train.ema=0.99"], "train.ema: the codebook follows the current weights"),
    ("vqvae", ["model.codebook_size=1"], "should be greater than or equal to 2"),
    ("vqvae", ["model.codebook_size=100000000000"], "should be less than or equal to 1048576"),
    ("vqvae2", ["data.img_size=12"], "data.img_size: 12 x 12 gives 3 x 3 bottom codes, which two"),
    ("vqvae2", ["model.backbone=ldm"], "model.backbone: 'ldm' should be 'conv' or 'vit'"),
    ("fsq", ["model.levels=[2,3]"], "model.levels: 2 should be greater than or equal to 3"),
    ("fsq", ["model.levels=[]"], "model.levels: must name the levels of at least one number"),
    ("fsq", ["model.levels=[3000,3000]"], "model.levels: make 9,000,000 codes; at most 1,048,576"),
    ("fsq", ["model.latent_dim=4"], "model.latent_dim: 4 conflicts with the 3 entries"),
    ("fsq", ["model.backbone=ldm"], "model.backbone: ldm has no place for codes without"),
    ("dae", ["model.strength=1.5"], "model.strength: 1.5 should be less than or equal to 1"),
    ("dae", ["model.strength=1", "model.corruption=masking"], "corrupts every pixel"),
    ("dae", ["model.corruption=blur"], "model.corruption: 'blur' should be"),
    ("kl", ["data.img_size=8"], "data.img_size: 8 is too small: sides of 16 or more"),
    ("kl", ["data.img_size=18"], "2 stages need sides that divide by 4"),
    ("kl", ["model.latent_dim=48"], "768 numbers per image are no bottleneck"),
    ("kl", ["model.backbone=conv"], "model.backbone: 'conv' should be 'ldm'"),
    ("kl", ["model.critic_width=12"], "model.critic_width: 12 must be a multiple of 8"),
    ("kl", ["model.eq=1"], "model.eq: 1 should be less than 1"),
    ("kl", ["model.decoder_only=true"], "model.decoder_only: needs init.from"),
    ("kl", ["init.from=/nowhere"], "/nowhere is no folder"),
    ("noise2void", UNCORRELATED, "data.train: the noise is correlated: 0."),
    ("noise2void", UNCORRELATED + PAIRED, "data.train: no pairs: the shards must hold KEY"),
    ("noise2void", PAIRED, "model.allow_correlated: has no effect with method=noise2noise"),
    ("noise2void", ["model.radius=3"], "and replacement=interpolation: remove it"),
    ("noise2void", ["data.img_size=32"], "20 x 24 pixels are smaller than crops of 32 x 32"),
    ("noise2void", ["data.img_size=18"], "data.img_size: 18 x 18 must be multiples of 4"),
    ("noise2void", ["data.img_size=[16,20]"], "objective noise2void turns its crops: they must be"),
    ("noise2void", ["data.scale=[0.5,1]"], "data.scale: objective noise2void does not resize"),
    ("noise2void", ["data.crop_on_device=true"], "data.crop_on_device: objective noise2void does"),
    ("noise2void", ["data.decode_on_device=true"], "data.decode_on_device: objective noise2void"),
    ("noise2void", ["model.grid=9"], "model.grid: squares of 9 pixels are too large"),
    ("prior", [], "model.tokenizer: must name the run or plain export of a vqvae, vqvae2"),
    ("prior", ["model.tokenizer=/nowhere"], "model.tokenizer: /nowhere: no such file or folder"),
    ("prior", ["model.tokenizer={ae}"], "is of objective ae, which has no codes"),
    ("prior", ["model.tokenizer={grey}"], "reads 1 channels of 8 bits; set data.in_chans=1"),
    ("prior", [TOKENIZER, "data.bits=16"], "reads 3 channels of 8 bits; set data.in_chans=3"),
    ("prior", [TOKENIZER, "data.img_size=32"], "data.img_size: (32, 32) is not the (16, 16)"),
    ("prior", [TOKENIZER, "data.mean=[0.1,0.1,0.1]"], "data.mean: the normalisation is the token"),
    ("prior", [TOKENIZER, "data.own_statistics=true"], "data.own_statistics: the normalisation"),
    ("prior", [TOKENIZER, "model.dim=15"], "model.dim: 15 must be a multiple of num_heads = 2"),
    ("sae", [], "model.encoder: must name a run, an export, timm:NAME or hf:ID"),
    ("sae", ["model.encoder=/nowhere"], "model.encoder: /nowhere: no such file or folder"),
    ("sae", ["model.encoder={ae}"], "has no patch tokens: give a Vision Transformer"),
    ("sae", [ENCODER, "model.k=128"], "model.k: 128 of 8 x 16 latents are not sparse"),
    ("sae", [ENCODER, "model.layer=2"], "model.layer: no block 2: "),
    ("sae", [ENCODER, "model.group=3"], "model.group: 3 images do not divide train.batch_size = 8"),
    ("sae", [ENCODER, "train.max_device_batch=1"], "BatchTopK needs whole groups of model.group"),
    ("sae", [ENCODER, "train.ema=0.99"], "train.ema: the threshold follows the current weights"),
    ("sae", [ENCODER, "data.img_size=32"], "data.img_size: (32, 32) is not the (16, 16)"),
    ("sae", [ENCODER, "data.in_chans=1", "data.mean=[.4]", "data.std=[.3]"], "3 channels of 8"),
    ("sae", [ENCODER, "data.std=[0.1,0.1,0.1]"], "data.std: the normalisation is the encoder's"),
    ("sae", [ENCODER, "data.own_statistics=true"], "data.own_statistics: the normalisation"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Untrained runs, by name."""
    folder = tmp_path_factory.mktemp("untrained")
    codes = {"latent_dim": 4, "codebook_size": 16}
    return {
        "ae": untrained_run(folder / "ae", small_config("ae", channels=3)),
        "vit": untrained_run(folder / "vit", small_config("ae", channels=3, backbone="vit")),
        "vqvae": untrained_run(folder / "vqvae", small_config("vqvae", channels=3, **codes)),
        "grey": untrained_run(folder / "grey", small_config("vqvae", **codes)),
    }


@pytest.mark.parametrize(("name", "settings", "message"), CASES, ids=str)
def test_it_is_refused_in_one_line(name, settings, message, runs, shards, tmp_path, capsys):
    given = [setting.format(**runs) if "={" in setting[:18] else setting for setting in settings]
    assert main(words(name, shards, tmp_path / "run", *given)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "run").exists()
