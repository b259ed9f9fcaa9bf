"""Every command on a run of an objective that is not part of the package: see `tests.toy`.

Each does its work, or refuses in one line with exit code 2.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from mae.cli import build_parser, main
from mae.objectives import registry
from tests.explore.tables import columns, write

SETTINGS = """\
output: {folder}/run
objective: toy
data: {{train: '{train}', val: '{test}', img_size: 16, workers: 0}}
model: {{latents: 4}}
optim: {{lr: 2.0e-3, warmup_epochs: 0}}
train: {{epochs: 1, batch_size: 8, precision: fp32}}
log: {{every: 1, panel_every: 2, wandb: false, health_every: 1}}
"""
SITE = """\
from mae.objectives import registry

registry.OBJECTIVES["toy"] = "tests.toy"
"""
"""registers the toy objective in the processes that a command starts"""

LABELLED = "--train {train} --test {test}"
QUICK = "--quick --batch-size 2"


class Row(NamedTuple):
    """Command line and its expected result; {names} are those of the fixture `names`."""

    line: str
    makes: Sequence[str] = ()
    """files that it writes"""
    refusal: str = ""
    """words of the line with which it refuses"""


DOES = [
    Row(
        "pretrain {config} output={out}/run", ["run/metrics.jsonl", "run/panels/step-000000003.png"]
    ),
    Row("pretrain {config} output={out}/run --dry-run"),
    Row("pack {pictures} {out}/packed --workers 0", ["packed/train-000000.tar"]),
    Row("index {train} --stats"),
    Row("verify {train} --workers 0"),
    Row("recipes show multi_gpu"),
    Row("recipes launchers slurm"),
    Row("recipes encoders hiera_tiny_224"),
    Row("inspect-batch {run} 2 --out {out}/batch.png", ["batch.png"]),
    Row("report {run} --out {out}/report.html", ["report.html"]),
    Row("explore {table} --out {out}/map.html", ["map.html"]),
    Row("reconstruct {run} {test} --out {out}/r.png", ["r.png", "r.json"]),
    Row("reconstruct {run} {picture} --out {out}/r.html --columns original error", ["r.html"]),
    Row("neighbours {run} {test} --among {train} --out {out}/n.png", ["n.png"]),
    Row("search {run} 3 --among {train} --out {out}/s.html", ["s.html", "s.json"]),
    Row("embed {train} --with {run} --out {out}/e.parquet", ["e.parquet"]),
    Row("duplicates {test} --against {train} --with {run} --out {out}/d.json", ["d.json"]),
    Row("features {run} {train} --out {out}/f.safetensors", ["f.safetensors"]),
    Row(f"knn {{run}} {LABELLED} --baselines --out {{out}}/knn.json", ["knn.json"]),
    Row(f"probe {{run}} {LABELLED} --splits 1 --out {{out}}/probe.json", ["probe.json"]),
    Row(
        f"probe {{run}} {LABELLED} --protocol mae --epochs 1 --step-batch 8 --out {{out}}/m.json",
        ["m.json"],
    ),
    Row(
        f"fewshot {{run}} {LABELLED} --shots 2 --percent 50 --splits 1 --out {{out}}/few.json",
        ["few.json"],
    ),
    Row("export {run} {out}/export", ["export/README.md"]),
    Row("bench loader {many} --img-size 16 --quick --out {out}/l.json", ["l.json"]),
    Row("bench decode {many} --quick --out {out}/d.json", ["d.json"]),
    Row(
        f"bench joint {{train}} --config {{config}} {QUICK} --workers 0 --out {{out}}/j.json",
        ["j.json"],
    ),
    Row(f"bench profile --config {{config}} {QUICK} --out {{out}}/p.json", ["p.json"]),
    Row(
        "bench step --config {config} --quick --batch-sizes 2 --modes eager --out {out}/t.json",
        ["t.json"],
    ),
]

REFUSES = [
    Row(
        "supervise sleep 3", refusal="neither `-m mae.pretrain CONFIG` nor `-m mae.finetune SOURCE`"
    ),
    Row("finetune {run} output={out}/run", refusal="objective toy, which trains no encoder"),
    Row("reconstruct {run} {test} --mask grid --out {out}/r.png", refusal="--mask: objective toy"),
    Row(
        "reconstruct {run} {test} --mask-ratio 0.5 --out {out}/r.png",
        refusal="--mask-ratio: objective toy",
    ),
    Row(
        "reconstruct {run} {test} --columns raw --out {out}/r.png",
        refusal="--columns: no raw here; there are original, reconstruction, error",
    ),
    Row(
        "sample {run} --files {out}/files --out {out}/s.png",
        refusal="objective toy has no samples; mae sample needs them; objectives with them: vae, "
        "beta_vae, aae, ladder, prior",
    ),
    Row(
        "interpolate {run} {picture} {picture} --files {out}/files --out {out}/i.png",
        refusal="objective toy has no latents to decode; mae interpolate needs them; objectives "
        "with them: ae, dae, sparse, vae, beta_vae, aae, ladder, kl",
    ),
    Row(
        "edit {run} {test} --direction {train} --attribute 1 --files {out}/files --out {out}/e.png",
        refusal="objective toy has no latents to decode; mae edit needs them; objectives with "
        "them: ae, dae, sparse, vae, beta_vae, aae, ladder, kl",
    ),
    Row(
        "latents {run} {test} {out}/l",
        refusal="objective toy has no latents; mae latents needs them; objectives with them: ae, "
        "dae, sparse, vae, beta_vae, aae, ladder, vqvae, vqvae2, fsq, kl",
    ),
    Row(
        "sae-report {run} --test {test} --out {out}/s.html",
        refusal="objective toy has no sparse latents; mae sae-report needs them; objectives with "
        "them: sparse, sae",
    ),
    Row(
        "denoise {run} {test} --out {out}/d",
        refusal="objective toy has no denoised images; mae denoise needs them; objectives with "
        "them: dae, noise2void",
    ),
    Row(
        "compress {run} {test} --out {out}/c",
        refusal="objective toy has no codes; mae compress needs them; objectives with them: "
        "vqvae, vqvae2, fsq, prior",
    ),
    Row("decompress {picture} --with {run} --out {out}/c", refusal="holds no compressed images"),
    Row(
        "anomaly fit {out}/a --normal {train} --calibration {test} --features {run}",
        refusal="objective toy has no Vision Transformer's blocks; mae anomaly needs them",
    ),
    Row("anomaly score {run} {test} --out {out}/a.json", refusal="is no detector of this version"),
    Row("anomaly export {run} {out}/program", refusal="is no detector of this version"),
    Row("anomaly evaluate {run} --test {test}", refusal="is no detector of this version"),
    Row("attention {run} {test}", refusal="objective toy has no attention blocks of a Vision"),
    Row("pca {run} {test}", refusal="objective toy has no patch tokens; mae pca needs them"),
    Row(
        "features {run} {train} --tokens --out {out}/f.safetensors",
        refusal="objective toy has no patch tokens; mae features --tokens needs them",
    ),
    Row(
        "evaluate {run} --test {test} --out {out}/e.json",
        refusal="objective toy has no class scores; mae evaluate needs them",
    ),
    Row(
        f"segment {{run}} {LABELLED} --out {{out}}/s.json",
        refusal="objective toy has no patch tokens; mae segment needs them",
    ),
    Row(
        f"attentive {{run}} {LABELLED} --out {{out}}/a.json",
        refusal="objective toy has no patch tokens; mae attentive needs them",
    ),
    Row(f"bench attention --config {{config}} {QUICK}", refusal="attention"),
]


def commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    """Yield the name of every command: `knn`, `bench step` …"""
    kinds = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not kinds:
        yield before
    for action in kinds:
        for name, below in action.choices.items():
            yield from commands(below, f"{before} {name}".strip())


@pytest.fixture(scope="module", autouse=True)
def toy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.OBJECTIVES, "toy", "tests.toy")
        yield


@pytest.fixture(scope="module")
def names(toy, make_shards, make_image, tmp_path_factory):
    """Finished run, its settings, training and test shards, and image files."""
    folder = tmp_path_factory.mktemp("toy")
    train = make_shards(folder / "train", 24, shard_size=12, size=(20, 24))
    test = make_shards(folder / "test", 12, shard_size=12, size=(18, 22))
    config = folder / "toy.yaml"
    config.write_text(SETTINGS.format(folder=folder, train=train, test=test))
    (folder / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(make_image(number)).save(folder / "pictures" / f"{number}.png")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    assert main(["pretrain", str(config)]) == 0
    write(folder / "table.parquet", columns(12))
    return {
        "run": folder / "run",
        "config": config,
        "train": train,
        "test": test,
        "many": make_shards(folder / "many", 64, size=(20, 24)),
        "pictures": folder / "pictures",
        "picture": folder / "pictures" / "0.png",
        "site": folder / "site",
        "table": folder / "table.parquet",
    }


@pytest.fixture
def words(names, tmp_path, monkeypatch):
    """`words(row)`: arguments of its command line."""
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{names['site']}:{root}")
    return lambda row: [word.format(**names, out=tmp_path) for word in row.line.split()]


def test_no_command_is_forgotten():
    lines = [row.line for row in (*DOES, *REFUSES)]
    for command in commands(build_parser()):
        assert any(line.startswith(f"{command} ") for line in lines), command


@pytest.mark.parametrize("row", DOES, ids=lambda row: row.line.partition(" --out")[0])
def test_a_command_does_its_work(row, words, tmp_path, capsys):
    assert main(words(row)) == 0, capsys.readouterr().err
    assert capsys.readouterr().out
    for name in row.makes:
        assert (tmp_path / name).stat().st_size > 100, name


@pytest.mark.parametrize("row", REFUSES, ids=lambda row: row.line.partition(" --out")[0])
def test_a_command_refuses_in_one_line(row, words, tmp_path, capsys):
    assert main(words(row)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mae: ") and row.refusal in line
    assert not list(tmp_path.iterdir())
