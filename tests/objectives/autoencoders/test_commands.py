"""Every command on the run of a VQ-VAE and of a prior: its work, or a refusal in one line."""

import pytest

from mae.cli import main
from tests.objectives.autoencoders.small import small_config
from tests.test_commands_any_objective import LABELLED, QUICK
from tests.untrained import untrained_run

DOES = [
    "inspect-batch {run} 2 --out {out}/batch.png",
    "reconstruct {run} {shards} --out {out}/r.png",
    "neighbours {run} {shards} --among {shards} --out {out}/n.png",
    "features {run} {shards} --out {out}/f.safetensors",
    f"knn {{run}} {LABELLED} --out {{out}}/knn.json",
    f"probe {{run}} {LABELLED} --splits 1 --out {{out}}/probe.json",
    f"fewshot {{run}} {LABELLED} --shots 2 --percent 50 --splits 1 --out {{out}}/few.json",
    f"bench profile --config {{run}}/config.yaml {QUICK} --out {{out}}/p.json",
]

SLOW = [
    f"bench joint {{shards}} --config {{run}}/config.yaml {QUICK} --workers 0 --out {{out}}/j",
    "bench step --config {run}/config.yaml --quick --batch-sizes 2 --modes eager --out {out}/t",
]

REFUSES = {
    "finetune {run} output={out}/run data.train={shards} train.batch_size=8": "trains no encoder",
    "attention {run} {shards}": "has no attention blocks of a Vision",
    "pca {run} {shards}": "has no patch tokens; mae pca needs them",
    "features {run} {shards} --tokens --out {out}/f.safetensors": "has no patch tokens",
    "evaluate {run} --test {shards} --out {out}/e.json": "has no class scores",
    f"segment {{run}} {LABELLED} --out {{out}}/s.json": "has no patch tokens",
    f"attentive {{run}} {LABELLED} --out {{out}}/a.json": "has no patch tokens",
    f"bench attention --config {{run}}/config.yaml {QUICK}": "bench",
    "export {run} {out}/x --pool avg": "--pool avg: needs a timm encoder",
}

HAVE_NONE = {
    ("prior", "reconstruct"): "has no reconstructions; mae reconstruct needs them",
    ("prior", "bench"): "takes",
}
"""commands that refuse for one objective only"""


@pytest.fixture(params=["vqvae", "prior"])
def arguments(request, finished, shards, tmp_path):
    """Objective, and `words(line)`: arguments of a command line."""
    names = {"run": finished(request.param), "shards": shards, "out": tmp_path}
    names |= {"train": shards, "test": shards}
    return request.param, lambda line: [word.format(**names) for word in line.split()]


@pytest.mark.parametrize(
    "line",
    [*DOES, *(pytest.param(line, marks=pytest.mark.fault) for line in SLOW)],
    ids=lambda line: line.partition(" --out")[0],
)
def test_a_command_does_its_work(line, arguments, tmp_path, capsys):
    name, words = arguments
    found = [text for (one, start), text in HAVE_NONE.items() if one == name and start in line]
    refusal = "".join(found)
    code, printed = main(words(line)), capsys.readouterr()
    if refusal:
        assert code == 2 and refusal in printed.err and len(printed.err.splitlines()) == 1
        return
    assert code == 0, printed.err
    assert printed.out and any(path.stat().st_size > 100 for path in tmp_path.iterdir())


@pytest.mark.parametrize(("line", "refusal"), REFUSES.items(), ids=list(REFUSES))
def test_a_command_refuses_in_one_line(line, refusal, arguments, tmp_path, capsys):
    _, words = arguments
    assert main(words(line)) == 2
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith("mae: ") and refusal in printed
    assert not list(tmp_path.iterdir())


def test_the_encoder_of_a_vision_transformer_is_fine_tuned(shards, tmp_path, capsys):
    vit = untrained_run(tmp_path / "vit", small_config("ae", channels=3, backbone="vit"))
    settings = [f"data.train={shards}", "train.batch_size=8", "data.workers=0", "log.wandb=false"]
    words = ["finetune", str(vit), f"output={tmp_path}/out", *settings, "--dry-run"]
    assert main(words) == 0, capsys.readouterr().err
