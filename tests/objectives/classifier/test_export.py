import pytest
import timm
import torch

from mae.cli import main
from mae.data.class_names import write_class_names
from mae.objectives.classifier.declaration import model_of
from mae.objectives.classifier.model import Classifier
from mae.training.checkpoint.trained import load_pretrained
from tests.untrained import classifier_config, untrained_run

NAMES = ("cat", "big dog", "hen")


@pytest.fixture(params=["token", "avg"])
def pool(request):
    return request.param


@pytest.fixture
def run(tmp_path, pool):
    """Run folder of an untrained classifier with class names."""
    run = untrained_run(tmp_path / "run", classifier_config(pool))
    write_class_names(NAMES, run)
    return run


def logits_of(run, images):
    objective = load_pretrained(run)[1]
    assert isinstance(objective, Classifier)
    with torch.no_grad():
        return objective.logits(images)


def test_for_transformers(run, pool, tmp_path, in_process, capsys):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "out"
    words = ["export", str(run), str(out), "--images", "noise", "--format", "hf"]
    if pool == "avg":
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "the mean of the patches (finetune.global_pool): use --format timm" in error
        assert len(error.splitlines()) == 1 and not out.exists()
        return
    assert main(words) == 0
    assert "the classifier of step 6, checked through transformers" in capsys.readouterr().out
    model = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    assert type(model) is transformers.ViTForImageClassification
    assert model.config.id2label == dict(enumerate(NAMES))
    assert model.config.label2id == {name: number for number, name in enumerate(NAMES)}
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        found = model((images / 255 - 0.5) / 0.5).logits
    torch.testing.assert_close(found, logits_of(run, images), rtol=1e-5, atol=1e-5)


def test_hiera_for_transformers(tmp_path, in_process, capsys):
    transformers = pytest.importorskip("transformers")
    config = classifier_config("avg")
    kwargs = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2), "mask_unit_attn": (0, 0)}
    changed = {"encoder": "hiera_tiny_224", "encoder_kwargs": kwargs, "patch_size": 4}
    model = model_of(config).model_copy(update=changed)
    run = untrained_run(tmp_path / "run", config.model_copy(update={"model": model}))
    write_class_names(NAMES, run)
    out = tmp_path / "out"
    words = ["export", str(run), str(out), "--images", "noise", "--format", "hf"]
    assert main(words) == 0, capsys.readouterr().err
    assert "the classifier of step 6, checked through transformers" in capsys.readouterr().out
    theirs = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    assert type(theirs) is transformers.HieraForImageClassification
    assert theirs.config.id2label == dict(enumerate(NAMES))
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        found = theirs((images / 255 - 0.5) / 0.5).logits
    torch.testing.assert_close(found, logits_of(run, images), rtol=1e-5, atol=1e-5)


def test_in_the_names_of_the_original_release(run, pool, tmp_path, in_process):
    """The fine-tuned models of that release have `head` and, of the mean, `fc_norm`."""
    out = tmp_path / "out"
    words = ["export", str(run), str(out), "--images", "noise", "--format", "mae"]
    assert main(words) == 0
    weights = torch.load(out / "mae.pth", weights_only=True)["model"]
    norm = "fc_norm" if pool == "avg" else "norm"
    assert {"cls_token", "head.weight", "head.bias", f"{norm}.weight"} <= weights.keys()
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=3,
        global_pool=pool,
        fc_norm=pool == "avg",
    ).eval()
    model.load_state_dict(weights)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        found = model((images / 255 - 0.5) / 0.5)
    torch.testing.assert_close(found, logits_of(run, images), rtol=1e-5, atol=1e-5)
    assert (out / "classes.txt").read_text() == "cat\nbig dog\nhen\n"


def test_what_is_no_plain_encoder_is_refused(tmp_path, in_process, capsys):
    config = classifier_config("token")
    kwargs = {**model_of(config).encoder_kwargs, "reg_tokens": 2}
    model = model_of(config).model_copy(update={"encoder_kwargs": kwargs})
    run = untrained_run(tmp_path / "run", config.model_copy(update={"model": model}))
    for format in ("hf", "mae"):
        words = ["export", str(run), str(tmp_path / format), "--images", "noise"]
        assert main([*words, "--format", format]) == 2
        assert f"--format {format} has no place for registers" in capsys.readouterr().err
