"""Findings on dead latents, on variance below top-k PCA and on tokens that are alike."""

import pytest

from mae.config.types import flatten
from mae.evaluation.run_record import RunRecord
from mae.objectives.registry import config_type, declaration

HEALTHY = {"explained": 0.9, "explained_topk_pca": 0.8, "token_rank": 60.0}


@pytest.mark.parametrize(
    ("health", "metrics", "words"),
    [
        (HEALTHY, {"dead_latents": 0.05}, ""),
        (HEALTHY, {"dead_latents": 0.2}, "20% of the latents are dead"),
        (HEALTHY | {"explained": 0.7}, {}, "70.0% of the tokens' variance is explained, and top-k"),
        (HEALTHY | {"token_rank": 3.0}, {}, "The tokens have 3.0 effective dimensions, fewer than"),
        ({}, {}, ""),
    ],
)
def test_findings_and_their_thresholds(health, metrics, words):
    settings = flatten(config_type("sae")(objective="sae").model_dump(mode="json"))
    settings |= {"train.epochs": 20.0, "optim.warmup_epochs": 1.0}
    row = {"epoch": 10.0}
    record = RunRecord([row | metrics], [row | health], settings)
    found = list(declaration("sae").warn(record))
    assert [words in one.text for one in found] == [True] * bool(words)
    young = RunRecord([row | metrics | {"epoch": 3.0}], [row | health | {"epoch": 3.0}], settings)
    assert not list(declaration("sae").diagnose(young))
