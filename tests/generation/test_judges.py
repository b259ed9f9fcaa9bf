"""Judges: the identity of their cached features."""

from mae.config.sections import DataConfig
from mae.evaluation.feature_cache import identity
from mae.generation.judges import open_judge
from mae.pretrained_weights.licence import Licence
from mae.pretrained_weights.opened import OpenedModel
from tests.evaluation.frozen import images_of
from tests.objectives.autoencoders.small import build, small_config
from tests.untrained import NUMBERS, tiny_config, untrained_run


def test_features_of_the_same_weights_read_otherwise_are_not_reused(tmp_path, make_shards):
    opened = OpenedModel(small_config("vae", 3), build("vae", 3), None, True, Licence())
    images = images_of(make_shards(tmp_path / "shards", 2))
    usual = DataConfig(train=("gone.tar",), mean=NUMBERS, std=NUMBERS)
    heads = tiny_config().model.model_dump() | {
        "encoder_kwargs": {"embed_dim": 32, "depth": 2, "num_heads": 4}
    }
    configs = {
        "usual": tiny_config(),
        "mean": tiny_config(data=usual.model_copy(update={"mean": (0.4, 0.5, 0.6)})),
        "bits": tiny_config(data=usual.model_copy(update={"bits": 16})),
        "heads": tiny_config(model=heads),
    }
    found, weights = [], set()
    for name, config in configs.items():
        judge = open_judge(str(untrained_run(tmp_path / name, config)), opened, "cpu")
        weights.add(judge.sha256)
        found.append(identity(judge.frozen(opened.config, (16, 16)), images))
    assert len(weights) == 1
    assert all(one not in found[:number] for number, one in enumerate(found))
