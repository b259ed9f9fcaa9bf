"""Names of encoders that timm lacks."""

import pytest

from mae.base.errors import UserError
from mae.networks.vit import build_encoder


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("vit_bas_patch16_224", "vit_base_patch16_224"), ("swin_tiny", None)],
)
def test_a_suggested_name_can_be_the_encoder(name, suggested):
    with pytest.raises(UserError) as caught:
        build_encoder(name)
    hint = f", did you mean {suggested}?" if suggested else ""
    assert str(caught.value) == f"model.encoder: timm has no model {name!r}{hint}"
    if suggested:
        build_encoder(suggested)
