"""Every autoencoder in every format of `mae export`, loaded again and compared."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mae.cli import main
from mae.objectives.registry import implementation
from tests.objectives.autoencoders.recipes import NAMES
from tests.objectives.autoencoders.small import small_config
from tests.runs import final_weights
from tests.untrained import untrained_run

GRAPHS = ("onnx", "torch")
DEEP = {"channels": 5, "bits": 16}
MODELS = {
    "sparse": {"latent_dim": 32, "k": 4},
    "vqvae": {"latent_dim": 4, "codebook_size": 16},
    "vqvae2": {"latent_dim": 4, "codebook_size": 16},
    "fsq": {"levels": [5, 4, 3]},
    "kl": {"depth": 1, "stages": 2, "adv": 0.5, "critic_width": 8},
    "noise2void": {"depth": 1, "stages": 1},
}
ON_VIT = {"backbone": "vit"}
CASES = [
    *(
        (name, "torch", {})
        for name in ("ae", "dae", "sparse", "vae", "ladder", "vqvae", "vqvae2", "fsq", "aae")
    ),
    *((name, "plain", {}) for name in ("ae", "sparse", "vae", "ladder", "vqvae2", "fsq", "aae")),
    *((name, "onnx", {}) for name in ("ae", "dae")),
    *(("noise2void", form, {}) for form in GRAPHS),
    *((name, "timm", ON_VIT) for name in ("ae", "vqvae")),
    ("fsq", "onnx", ON_VIT),
    ("sparse", "onnx", {"latent": "map", "channels": 3}),
    ("sparse", "onnx", {"sparsity": "l1", "backbone": "linear", "width": 32}),
    *(("vqvae", form, DEEP) for form in ("torch", "plain")),
    ("ae", "timm", DEEP | ON_VIT),
    ("vqvae", "diffusers", {"backbone": "ldm", "channels": 3}),
    ("kl", "diffusers", DEEP),
]
"""objective, format, settings of the model, channels and bits (default: 1 channel of 8 bits)"""

IN_FRESH_PROCESSES = [("vqvae", "onnx", {}), ("kl", "diffusers", {}), ("dae", "timm", ON_VIT)]
"""cases in which the export is checked as by the command; plain is that of the prior below"""

FURTHER = [
    ("beta_vae", "torch", {}),
    *((name, form, ON_VIT) for name in ("ladder", "vqvae2") for form in ("onnx", "timm")),
    *(
        (name, "onnx", {})
        for name in ("sparse", "vae", "beta_vae", "ladder", "vqvae2", "fsq", "aae")
    ),
    *((name, "plain", {}) for name in ("dae", "beta_vae", "vqvae")),
    *((name, form, ON_VIT) for name in ("dae", "vae") for form in (*GRAPHS, "timm")),
    ("vqvae", "onnx", DEEP),
    ("noise2void", "onnx", DEEP | {"method": "noise2noise"}),
    ("noise2void", "plain", DEEP),
    ("vae", "torch", {"latent": "map", "channels": 3}),
    ("ae", "onnx", {"backbone": "linear", "width": 32}),
    *(("kl", form, {}) for form in GRAPHS),
    ("kl", "plain", DEEP),
]
"""cases of the same code, as a drill"""
ALL = CASES + IN_FRESH_PROCESSES + FURTHER


def export(name, form, settings, tmp_path, *options) -> int:
    chosen: dict[str, Any] = {**MODELS.get(name, {}), **settings}
    config = small_config(name, **chosen)
    run = untrained_run(tmp_path / "run", config)
    return main(
        ["export", str(run), str(tmp_path / "out"), "--format", form, "--images", "noise", *options]
    )


@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=pytest.mark.fault) for case in FURTHER)],
    ids=lambda case: " ".join(map(str, case)),
)
def test_it_is_loaded_again(case, tmp_path, in_process, capsys):
    assert export(*case, tmp_path) == 0, capsys.readouterr().err
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in card and "objective" in card


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.fault] * (number > 0))
        for number, case in enumerate(IN_FRESH_PROCESSES)
    ],
    ids=str,
)
def test_it_is_loaded_again_in_a_fresh_process(case, tmp_path, capsys):
    assert export(*case, tmp_path) == 0, capsys.readouterr().err


def test_every_format_of_its_own_is_tested():
    for name in NAMES:
        tested = {form for one, form, _ in ALL if one == name}
        tested |= {"sae": {"saelens", *GRAPHS}}.get(name, set())  # tests/objectives/sae
        assert set(implementation(name).exports) <= tested, name


def test_other_networks_do_not_fit_into_diffusers(tmp_path, capsys):
    assert export("vqvae", "diffusers", {}, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--format diffusers: needs the networks of latent diffusion" in line
    assert not (tmp_path / "out").exists()


def test_a_prior_is_exported_with_its_tokenizer_and_no_paths(finished, tmp_path, capsys):
    assert main(["export", str(finished("prior")), str(tmp_path / "out")]) == 0
    kept = load_file(tmp_path / "out" / "frozen" / "model.safetensors")
    own = final_weights(finished("vqvae"))
    assert torch.equal(kept["bottleneck.codebook"], own["bottleneck.codebook"])
    files = [path for path in (tmp_path / "out").rglob("*[dn]") if path.is_file()]
    assert len(files) >= 3  # card, settings, and those of the tokenizer
    written = "".join(path.read_text() for path in files)
    assert str(finished("prior").parent) not in written


@pytest.mark.parametrize("form", ["timm", "onnx", "torch"])
def test_a_prior_has_no_graphs(form, finished, tmp_path, capsys):
    words = ["export", str(finished("prior")), str(tmp_path / "out"), "--format", form]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--format {form}: not a format of objective prior; its formats: plain" in line


@pytest.mark.parametrize("form", GRAPHS)
@pytest.mark.parametrize("option", [["--pool", "avg"], ["--no-decoder"], ["--img-size", "32"]])
def test_options_that_do_not_apply_are_refused_in_one_line(form, option, tmp_path, capsys):
    assert export("ae", form, {}, tmp_path, *option) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option[0] in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["torch", "plain", "timm"])
def test_a_map_of_latents_takes_images_of_another_size(form, tmp_path, in_process, capsys):
    assert export("vqvae", form, ON_VIT, tmp_path, "--img-size", "32") == 0, capsys.readouterr().err


@pytest.mark.parametrize("form", ["torch", "plain", "timm"])
def test_a_vector_of_latents_does_not(form, tmp_path, capsys):
    assert export("ae", form, ON_VIT, tmp_path, "--img-size", "32") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--img-size: the latents are a vector of the whole image" in line
