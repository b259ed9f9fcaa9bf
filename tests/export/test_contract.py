import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from mae.base.errors import UserError
from mae.export.contract import choose_pool, features, resize
from mae.objectives.mae.export import expect_prediction, mae_of
from mae.objectives.mae.implementation import IMPLEMENTATION
from tests.export.models import export_request, images_of


def test_default_pooling_is_the_class_token():
    with_token = export_request().model
    without = export_request(kwargs={"class_token": False}).model
    assert choose_pool(with_token, IMPLEMENTATION, None) == "token"
    assert choose_pool(with_token, IMPLEMENTATION, "avg") == "avg"
    assert choose_pool(without, IMPLEMENTATION, None) == "avg"
    with pytest.raises(
        UserError, match="--pool token: this encoder has no class token; use --pool avg"
    ):
        choose_pool(without, IMPLEMENTATION, "token")


def test_resize_keeps_prefix_tokens_and_fits_encoder_and_decoder():
    as_trained, resized = export_request(), export_request(img_size=(32, 24))
    model = mae_of(resized)
    assert (model.img_size, model.num_patches) == ((32, 24), 12)
    assert resized.config.data.img_size == (32, 24) and resized.trained_size == (16, 16)
    assert model.decoder.pos_embed.shape == (1, 12, 16)
    old, new = as_trained.encoder.pos_embed, model.encoder.pos_embed
    assert old is not None and new is not None
    assert torch.equal(new[:, :1], old[:, :1])
    images = model.normalize_images(images_of(resized))
    given, expected = expect_prediction(model, images)
    assert expected["prediction"].shape == (3, 9, 192)
    assert given["noise"].shape == (3, 12)


def test_resize_keeps_a_constant_embedding():
    """Bicubic interpolation of a constant is that constant: nothing is shifted or scaled."""
    request = export_request()
    with torch.no_grad():
        mae_of(request).decoder.pos_embed.fill_(0.25)
    resize(request.config, request.model, IMPLEMENTATION, (40, 24))
    torch.testing.assert_close(mae_of(request).decoder.pos_embed, torch.full((1, 15, 16), 0.25))


def test_size_that_is_no_multiple_of_the_patch_size_is_refused():
    with pytest.raises(
        UserError, match="--img-size: 20 x 16 does not divide into patches of 8 x 8"
    ):
        export_request(img_size=(20, 16))


def test_features_of_a_classifier_are_its_logits():
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=7, depth=1, img_size=32).eval()
    assert isinstance(vit, VisionTransformer)
    images = torch.randn(2, 3, 32, 32)
    _, logits = features(vit, images, "avg")
    assert torch.equal(logits, vit(images))
