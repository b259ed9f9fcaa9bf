"""Features of a detector: what they are identified by."""

from mae.anomaly.detector import MAIN
from mae.anomaly.sources import Choice, open_source
from mae.config.sections import DataConfig
from tests.untrained import NUMBERS, tiny_config, untrained_run


def test_the_same_weights_with_other_settings_are_other_features(tmp_path):
    numbers = {"train": ("gone.tar",), "mean": NUMBERS, "std": NUMBERS}
    heads = tiny_config().model.model_dump() | {
        "encoder_kwargs": {"embed_dim": 32, "depth": 2, "num_heads": 4}
    }
    configs = {
        "usual": tiny_config(),
        "heads": tiny_config(model=heads),
        "bits": tiny_config(data=DataConfig(**numbers, bits=16)),
    }
    for scorer in ("pca", "reconstruction"):
        found = set()
        for name, config in configs.items():
            run = tmp_path / name
            if not run.exists():
                untrained_run(run, config)
            source = open_source(Choice(str(run), scorer))
            found.add(source.members[MAIN][0].sha256)
        assert len(found) == len(configs)
