"""Wrong settings of the autoencoders: refused in one line, before any training."""

import pytest

from mae.pretrain import main
from tests.objectives.autoencoders.recipes import words
from tests.objectives.autoencoders.small import small_config
from tests.untrained import untrained_run

VIT = "model.backbone=vit"
TOKENIZER = "model.tokenizer={vqvae}"

CASES = [
    ("ae", ["model.stages=5"], "model.stages: 5 stages need sides that divide by 32"),
    ("ae", ["model.stages=100000"], "model.stages: 100000 should be less than or equal to 10"),
    ("ae", ["data.img_size=null"], "data.img_size: objective ae has no default size"),
    ("ae", ["model.latent_dim=768"], "model.latent_dim: 768 numbers per image are no bottleneck"),
    ("ae", ["model.latent=map", "model.latent_dim=48"], "no bottleneck for images of 768"),
    ("ae", [VIT, "model.latent=map", "model.latent_dim=900"], "3,600 numbers per image are no"),
    ("ae", [VIT, "model.patch_size=5"], "does not divide into patches of 5 x 5"),
    ("ae", [VIT, "model.encoder=resnet50"], "timm cannot build resnet50"),
    ("ae", [VIT, "model.encoder_kwargs={in_chans: 1}"], "in_chans: is set elsewhere"),
    ("ae", ["model.width=12"], "model.width: 12 must be a multiple of 8"),
    ("ae", ["init.from={vqvae}"], "is of objective vqvae"),
    ("sparse", ["model.k=32"], "model.k: 32 of 32 latents are not sparse: choose fewer"),
    ("sparse", ["model.sparsity=l1", "model.l1_weight=0", "model.latent_dim=768"], "no bottleneck"),
    ("vae", ["model.beta=0", "model.latent_dim=768"], "no bottleneck for images of 768"),
    ("vae", ["model.beta_warmup=1"], "model.beta_warmup: 1 should be less than 1"),
    ("vqvae", ["model.latent=vector"], "model.latent: 'vector' should be 'map'"),
    ("vqvae", ["model.codebook_size=1"], "should be greater than or equal to 2"),
    ("vqvae", ["model.codebook_size=100000000000"], "should be less than or equal to 1048576"),
    ("fsq", ["model.levels=[2,3]"], "model.levels: 2 should be greater than or equal to 3"),
    ("fsq", ["model.levels=[]"], "model.levels: must name the levels of at least one number"),
    ("fsq", ["model.levels=[3000,3000]"], "model.levels: make 9,000,000 codes; at most 1,048,576"),
    ("fsq", ["model.latent_dim=4"], "model.latent_dim: 4 conflicts with the 3 entries"),
    ("fsq", ["model.backbone=ldm"], "model.backbone: ldm has no place for codes without"),
    ("dae", ["model.strength=1.5"], "model.strength: 1.5 should be less than or equal to 1"),
    ("dae", ["model.strength=1", "model.corruption=masking"], "corrupts every pixel"),
    ("dae", ["model.corruption=blur"], "model.corruption: 'blur' should be"),
    ("prior", [], "model.tokenizer: must name the run or plain export of a vqvae or fsq"),
    ("prior", ["model.tokenizer=/nowhere"], "model.tokenizer: /nowhere: no run here"),
    ("prior", ["model.tokenizer={ae}"], "is a run of objective ae, which has no codes"),
    ("prior", ["model.tokenizer={grey}"], "reads 1 channels of 8 bits; set data.in_chans=1"),
    ("prior", [TOKENIZER, "data.bits=16"], "reads 3 channels of 8 bits; set data.in_chans=3"),
    ("prior", [TOKENIZER, "data.img_size=32"], "data.img_size: (32, 32) is not the (16, 16)"),
    ("prior", [TOKENIZER, "data.mean=[0.1,0.1,0.1]"], "data.mean: the normalisation is the token"),
    ("prior", [TOKENIZER, "data.own_statistics=true"], "data.own_statistics: the normalisation"),
    ("prior", [TOKENIZER, "model.dim=15"], "model.dim: 15 must be a multiple of num_heads = 2"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Untrained runs, by name."""
    folder = tmp_path_factory.mktemp("untrained")
    codes = {"latent_dim": 4, "codebook_size": 16}
    return {
        "ae": untrained_run(folder / "ae", small_config("ae", channels=3)),
        "vqvae": untrained_run(folder / "vqvae", small_config("vqvae", channels=3, **codes)),
        "grey": untrained_run(folder / "grey", small_config("vqvae", **codes)),
    }


@pytest.mark.parametrize(("name", "settings", "message"), CASES, ids=str)
def test_it_is_refused_in_one_line(name, settings, message, runs, shards, tmp_path, capsys):
    given = [setting.format(**runs) if "={" in setting[:18] else setting for setting in settings]
    assert main(words(name, shards, tmp_path / "run", *given)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "run").exists()
