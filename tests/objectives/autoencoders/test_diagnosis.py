"""Each finding appears on a run that is built to fail so, and not on a healthy one."""

import pytest

from mae.config.types import flatten
from mae.evaluation.run_record import RunRecord
from mae.objectives.registry import declaration
from tests.objectives.autoencoders.recipes import train
from tests.objectives.autoencoders.small import small_config
from tests.runs import exit_status, metrics_of

LEVELS = ("top", "bottom")

COLLAPSED = ["model.codebook_size=64", "model.kmeans_start=false", "model.revive_below=0"]

RUNS = [
    ("vqvae", ["train.epochs=3", *COLLAPSED], "The codes have collapsed"),
    ("vqvae", ["train.epochs=3", "model.codebook_size=64"], ""),
    ("vae", ["train.epochs=4", "model.beta=1000", "optim.lr=1e-2"], "The posterior has collapsed"),
    ("vae", ["train.epochs=8", "optim.lr=5e-3", "model.width=16"], ""),
    (
        "sparse",
        ["train.epochs=3", "model.aux_weight=0", "model.latent_dim=128", "model.k=2"],
        "of the latents are dead",
    ),
    (
        "sparse",
        ["train.epochs=4", "model.latent_dim=16", "model.k=8", "model.dead_after=256"],
        "",
    ),
    ("ae", ["train.epochs=4"], ""),
    ("kl", ["train.epochs=2"], "less than 1 dB better than PCA"),
    ("aae", ["train.epochs=3", "model.adv=0"], "The latents do not follow the prior"),
]


def run(name, shards, folder, *settings, code=0) -> list[str]:
    """Warnings of a real run that is evaluated after each epoch."""
    evaluated = [f"data.val={shards}", "log.health_every=1", "log.every=8"]
    printed = train(name, shards, folder, *evaluated, *settings, code=code)
    return [line for line in printed.splitlines() if line.startswith("warning  ")]


@pytest.mark.parametrize(("name", "settings", "finding"), RUNS, ids=str)
def test_a_run_that_fails_so_warns_once_and_a_healthy_one_does_not(
    name, settings, finding, shards, tmp_path
):
    found = run(name, shards, tmp_path / "run", *settings)
    assert len(found) == bool(finding), found
    assert all(finding in line for line in found)


@pytest.mark.parametrize(
    ("name", "settings", "finding"), [one for one in RUNS[:3] if one[2]], ids=str
)
def test_strict_ends_it_with_a_checkpoint_and_the_reason(
    name, settings, finding, shards, tmp_path, capsys
):
    folder = tmp_path / "run"
    found = run(name, shards, folder, *settings, "guard.strict=true", code=1)
    assert len(found) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"guard.strict: {finding}" in line
    status, last = exit_status(folder), metrics_of(folder)[-1]["step"]
    assert finding in status["reason"] and last < 26
    assert (folder / "checkpoints" / f"step-{last:09d}").is_dir()


def test_strict_fails_on_a_finished_run_as_often_as_it_is_repeated(shards, tmp_path, capsys):
    name, settings, finding = RUNS[0]
    late = ["log.every=1000", "log.health_every=100", f"data.val={shards}", "guard.strict=true"]
    for _ in range(3):
        train(name, shards, tmp_path / "run", *settings, *late, code=1)
        assert f"guard.strict: {finding}" in capsys.readouterr().err.splitlines()[-1]
        assert metrics_of(tmp_path / "run")[-1]["step"] == 20


def test_strict_leaves_a_healthy_run_alone(shards, tmp_path):
    assert run("vqvae", shards, tmp_path / "run", *RUNS[1][1], "guard.strict=true") == []


def findings(name, health, metrics, **model) -> list[tuple[str, str]]:
    """Level and text of the findings on one row each, after half of a run of 20 epochs."""
    settings = flatten(small_config(name, **model).model_dump(mode="json"))
    settings |= {"train.epochs": 20.0, "optim.warmup_epochs": 1.0}
    row = {"epoch": 10.0}
    record = RunRecord([row | metrics], [row | health], settings)
    found = list(declaration(name).diagnose(record))
    assert [one.text for one in declaration(name).warn(record)] == [one.text for one in found]
    early = RunRecord([row | metrics | {"epoch": 3.0}], [row | health | {"epoch": 3.0}], settings)
    assert not list(declaration(name).diagnose(early))  # too young
    return [(one.level, one.text) for one in found]


HEALTHY_VAE = {"active": 1.0, "kl_nats": 20.0, "psnr": 20.0, "psnr_mean_image": 14.0}
HEALTHY_DENOISER = {"psnr": 24.9, "psnr_noisy": 16.0, "psnr_pca": 23.0}
HEALTHY_MOMENTS = {"std_smallest": 0.8, "std_largest": 1.2, "ks_largest": 0.1}
HEALTHY_CODES = {"usage": 0.9, "perplexity": 300.0, "codes_seen": 1e5}
TWO_LEVELS = {f"{key}_{name}": one for name in LEVELS for key, one in HEALTHY_CODES.items()}


@pytest.mark.parametrize(
    ("name", "health", "metrics", "level", "words"),
    [
        ("ae", {"psnr": 20.0}, {"psnr": 21.0}, "watch", "held-out error is 1.26 times"),
        ("ae", {"psnr": 20.3}, {"psnr": 21.0}, "", ""),
        ("dae", {"psnr": 20.0}, {"psnr": 25.0}, "watch", "held-out error is 3.16 times"),
        ("ae", {"psnr": 51.0}, {}, "watch", "Reconstructions equal the images: PSNR 51 dB"),
        ("ae", {"psnr": 49.0}, {}, "", ""),
        ("dae", HEALTHY_DENOISER, {}, "", ""),
        ("dae", HEALTHY_DENOISER | {"psnr": 16.0}, {}, "bad", "no better than the noisy images"),
        ("dae", HEALTHY_DENOISER | {"psnr": 22.9}, {}, "watch", "PCA of the noisy images at 23.00"),
        ("vae", HEALTHY_VAE, {}, "", ""),
        ("vae", HEALTHY_VAE | {"active": 0.05}, {}, "bad", "The posterior has collapsed"),
        ("vae", HEALTHY_VAE | {"kl_nats": 0.4}, {}, "bad", "The posterior has collapsed"),
        ("beta_vae", HEALTHY_VAE | {"psnr": 14.9}, {}, "bad", "hardly better than the mean image"),
        ("aae", HEALTHY_MOMENTS, {}, "", ""),
        ("aae", HEALTHY_MOMENTS | {"std_smallest": 0.4}, {}, "watch", "do not follow the prior"),
        ("aae", HEALTHY_MOMENTS | {"std_largest": 2.1}, {}, "watch", "do not follow the prior"),
        ("aae", HEALTHY_MOMENTS | {"ks_largest": 0.3}, {}, "watch", "distance of up to 0.30"),
        ("ladder", HEALTHY_VAE, {}, "", ""),
        ("ladder", HEALTHY_VAE | {"kl_nats": 0.4}, {}, "bad", "The posterior has collapsed"),
        ("ladder", HEALTHY_VAE | {"psnr": 14.9}, {}, "bad", "hardly better than the mean image"),
        ("ladder", HEALTHY_VAE | {"active_1": 0.0, "kl_nats_1": 2.0}, {}, "watch", "Group 1 has"),
        ("ladder", HEALTHY_VAE | {"active_2": 0.9, "kl_nats_2": 0.4}, {}, "watch", "0.40 nats per"),
        ("vqvae", HEALTHY_CODES, {}, "", ""),
        ("vqvae", HEALTHY_CODES | {"usage": 0.4}, {}, "bad", "The codes have collapsed: 40%"),
        ("vqvae", HEALTHY_CODES | {"perplexity": 30.0}, {}, "bad", "The codes have collapsed"),
        ("vqvae", {}, HEALTHY_CODES | {"usage": 0.4}, "bad", "The codes have collapsed"),
        ("vqvae", HEALTHY_CODES | {"usage": 0.4, "codes_seen": 5000.0}, {}, "", ""),  # too few
        ("vqvae2", TWO_LEVELS, {}, "", ""),
        ("vqvae2", TWO_LEVELS | {"usage_top": 0.4}, {}, "bad", "The top codes have collapsed: 40%"),
        ("fsq", HEALTHY_CODES | {"usage": 0.4}, {}, "watch", "The codes have collapsed"),
        ("sparse", {}, {"dead_latents": 0.2}, "watch", "20% of the latents are dead"),
        ("sparse", {}, {"dead_latents": 0.05}, "", ""),
        ("prior", {"bits": 5.0, "bits_marginal": 4.0}, {"bits": 4.9}, "watch", "frequencies alone"),
        ("prior", {"bits": 3.9, "bits_marginal": 4.0}, {"bits": 2.0}, "watch", "1.95 times"),
        ("prior", {"bits": 3.0, "bits_marginal": 4.0}, {"bits": 2.9}, "", ""),
    ],
)
def test_findings_and_their_thresholds(name, health, metrics, level, words):
    model = {"codebook_size": 512} if name in ("vqvae", "vqvae2") else {}
    if name == "prior":
        settings = {"train.epochs": 20.0}
        record = RunRecord([{"epoch": 10.0} | metrics], [{"epoch": 10.0} | health], settings)
        found = [(one.level, one.text) for one in declaration(name).diagnose(record)]
    else:
        found = findings(name, health, metrics, **model)
    assert len(found) == bool(level)
    assert all(one[0] == level and words in one[1] for one in found)
