"""Settings of the toy objective, for runs without training."""

from mae.config.sections import Config, DataConfig
from mae.objectives.registry import config_type
from tests.untrained import NUMBERS


def toy_config(shards: str = "gone.tar", **sections) -> Config:
    """Settings for images of 16 x 16 px; `sections` replace those of the same name."""
    data = DataConfig(train=(shards,), mean=NUMBERS, std=NUMBERS, img_size=(16, 16), workers=0)
    return config_type("toy").model_validate({"objective": "toy", "data": data, **sections})
