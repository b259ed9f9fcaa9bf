from mae.networks.vit import build_encoder, parameter_groups
from mae.objectives.mae.model import MaskedAutoencoder


def test_every_trainable_parameter_is_in_the_right_group_once():
    encoder = build_encoder(
        "vit_tiny_patch16_224", embed_dim=32, depth=1, num_heads=2, reg_tokens=2, init_values=0.1
    )
    model = MaskedAutoencoder(encoder, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    decayed, undecayed = parameter_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05 and undecayed["weight_decay"] == 0
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(p)]: decays
        for group, decays in ((decayed, True), (undecayed, False))
        for p in group["params"]
    }
    assert len(decayed["params"]) + len(undecayed["params"]) == len(found)
    assert set(names.values()) - found.keys() == {"encoder.pos_embed", "decoder.pos_embed"}
    tokens = {"encoder.cls_token", "encoder.reg_token", "decoder.mask_token"}
    for name, decays in found.items():
        is_matrix = name.endswith("weight") and "norm" not in name
        assert decays is is_matrix, name
        assert not (name in tokens and decays)
    assert tokens < found.keys()
