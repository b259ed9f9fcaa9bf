"""`mae bench`: refusals in one line."""

import pytest

from mae.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attention", "--config", "toy"], "objective toy has no attention layers"),
        (["joint", "x.tar", "--config", "classifier"], "mae finetune trains objective classifier"),
        (
            ["profile", "--config", "classifier", "--settings", "finetune.num_classes=0"],
            "takes finetune.num_classes from its training data",
        ),
        (["step", "--config", "classifier", "--batch-sizes", "3"], "bench: 3 images at a time;"),
        (["step", "--config", "toy", "--models", "a"], "--config describes the model: leave --mod"),
        (["profile", "--config", "toy", "--decoder-depth", "2"], "leave --decoder-depth out"),
        (["step", "--config", "none"], "none: no such config file"),
        (["profile", "--settings", "objective=classifier"], "model.decoder_depth: unknown key"),
        (["step", "--variants", "objective=none"], "objective: no 'none'"),
    ],
)
def test_refusals_are_one_line(words, message, toy, classifier, capsys):
    paths = {"toy": str(toy), "classifier": str(classifier)}
    words = ["bench", *(paths.get(word, word) for word in words)]
    assert main([*words, "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mae: ") and message in line


@pytest.mark.parametrize("name", ["peers", "overhead", "soak"])
def test_comparisons_and_checks_of_our_claims_are_in_benchmarks(name):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", name])
    assert stopped.value.code == 2
