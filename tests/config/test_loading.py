from pathlib import Path

import pytest
from pydantic import ValidationError

from mae.base.errors import UserError
from mae.config.loading import dump_config, load_config
from mae.objectives.mae.declaration import MaeModel, model_of
from mae.objectives.registry import config_type

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def refused(path, *overrides):
    """Lines of the error message."""
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    return str(error.value).splitlines()


# Precedence and parsing


def test_defaults_are_the_papers_recipe(write):
    config = load_config(write(""))
    assert config == config_type("mae")(output="runs/run")
    model = model_of(config)
    assert (model.encoder, model.mask_ratio) == ("vit_base_patch16_224", 0.75)
    assert (config.train.batch_size, config.train.epochs) == (4096, 800)
    assert (config.optim.blr, config.optim.betas) == (1.5e-4, (0.9, 0.95))
    assert (config.optim.warmup_epochs, config.optim.weight_decay) == (40, 0.05)
    assert (config.data.scale, model.norm_pix_loss) == ((0.2, 1.0), True)


def test_precedence_is_command_line_then_file_then_defaults(write):
    path = write("train: {epochs: 10, batch_size: 64}\noptim: {warmup_epochs: 1}\n")
    config = load_config(path, ["train.epochs=20", "log.every=5", "output=there"])
    assert (config.train.epochs, config.train.batch_size) == (20, 64)
    assert (config.log.every, config.train.seed) == (5, 0)
    assert config.output == "there"


def test_the_last_override_wins(write):
    assert load_config(write(""), ["train.seed=1", "train.seed=2"]).train.seed == 2


def test_section_without_lines_is_empty(write):
    assert load_config(write("model:\n  # mask_ratio: 0.5\n"), ["data.in_chans=3"]).model == (
        MaeModel()
    )


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "'1e-3'"])
def test_floats_in_any_notation(write, text):
    assert load_config(write(f"optim: {{blr: {text}}}")).optim.blr == 1e-3
    assert load_config(write(""), [f"optim.blr={text}"]).optim.blr == 1e-3


@pytest.mark.parametrize(
    "text",
    [
        "a-{000..146}.tar",
        "{000..146}.tar",
        "{a,b}",
        "/d/{train,val}-{0..2}.tar",
        "*.tar",
        "[ab].tar",
        "~/a.tar",
        "a-[0-9].tar",
    ],
)
def test_patterns_on_the_command_line_stay_strings(write, text):
    assert load_config(write(""), [f"data.train={text}"]).data.train == (text,)


@pytest.mark.parametrize(
    "text", ["run #2", "a: b", "[v2]", "2026-01-01", "7", "null", "- x", "{a,b} #1", "it's", "on"]
)
def test_run_folder_on_the_command_line_is_taken_as_written(write, text):
    config = load_config(write(""), [f"output={text}", f"data.train={text}/x: #1.tar"])
    assert (config.output, config.data.train) == (text, (f"{text}/x: #1.tar",))


def test_list_of_shards(write):
    expected = ("a-{0..1}.tar", "b.tar")
    assert load_config(write("data: {train: ['a-{0..1}.tar', b.tar]}")).data.train == expected
    assert load_config(write(""), ["data.train=['a-{0..1}.tar', b.tar]"]).data.train == expected


def test_mappings_on_the_command_line(write):
    for override in ("model.encoder_kwargs={depth: 1}", "model.encoder_kwargs.depth=1"):
        assert model_of(load_config(write(""), [override])).encoder_kwargs == {"depth": 1}


def test_encoder_kwargs_keep_their_types(write):
    text = "model: {encoder_kwargs: {depth: 4, mlp_ratio: 2.0, qkv_bias: true, eps: 1e-6}}"
    kwargs = model_of(load_config(write(text))).encoder_kwargs
    assert kwargs == {"depth": 4, "mlp_ratio": 2.0, "qkv_bias": True, "eps": 1e-6}
    assert [type(value) for value in kwargs.values()] == [int, float, bool, float]


@pytest.mark.parametrize(("text", "size"), [("96", (96, 96)), ("[96, 160]", (96, 160))])
def test_img_size_is_one_number_or_two(write, text, size):
    assert load_config(write(""), [f"data.img_size={text}"]).data.img_size == size


def test_null_restores_the_default(write):
    path = write("optim: {lr: 0.1}\nmodel: {patch_size: 8}")
    config = load_config(path, ["optim.lr=null", "model.patch_size="])
    assert config.optim.lr is None and model_of(config).patch_size is None


# Errors


def test_all_errors_are_reported_one_line_each_with_file_and_key(write):
    path = write("model: {mask_raito: 0.5}\ntrian: {epochs: 1}\ndata: {in_chans: 0, flip: maybe}\n")
    lines = refused(path, "optim.blrr=1", "nonsense", "=3", "train.epochs=soon")
    assert lines == [
        "command line: nonsense: write section.key=value",
        "command line: =3: write section.key=value",
        f"{path}: data.in_chans: 0 should be greater than 0",
        f"{path}: data.flip: 'maybe' should be a valid boolean, unable to interpret input",
        f"{path}: model.mask_raito: unknown key, did you mean mask_ratio?",
        "command line: optim.blrr: unknown key, did you mean blr?",
        "command line: train.epochs: 'soon' should be a valid number, "
        "unable to parse string as a number",
        f"{path}: trian: unknown key, did you mean train?",
    ]


def test_unknown_key_without_similar_key_lists_the_known_keys(write):
    (line,) = refused(write(""), "train.zzz=1")
    assert line.startswith("command line: train.zzz: unknown key, known are epochs, batch_size, ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.mask_ratio=1", "model.mask_ratio: 1 should be less than 1"),
        ("model.mask_ratio=-0.1", "model.mask_ratio: -0.1 should be greater than or equal to 0"),
        ("train.batch_size=0", "train.batch_size: 0 should be greater than 0"),
        ("train.batch_size=1.5", "train.batch_size: 1.5 should be a valid integer"),
        ("train.epochs=0", "train.epochs: 0 should be greater than 0"),
        ("train.precision=fp16", "train.precision: 'fp16' should be 'auto', 'bf16' or 'fp32'"),
        ("train.seed=-1", "train.seed: -1 should be greater than or equal to 0"),
        ("train.seed=9223372036854775808", "should be less than 9223372036854775808"),
        ("train.keep_last=1", "train.keep_last: 1 should be greater than or equal to 2"),
        ("optim.betas=[0.9, 1.0]", "optim.betas: 1.0 should be less than 1"),
        ("optim.betas=[0.9]", "optim.betas"),
        ("optim.lr=.nan", "optim.lr: nan should be a finite number"),
        ("optim.lr=.inf", "optim.lr: inf should be a finite number"),
        ("data.std=[0.2, 0, 0.2]", "data.std: 0 should be greater than 0"),
        ("data.crop_pct=1.1", "data.crop_pct: 1.1 should be less than or equal to 1"),
        ("data.train=5", "data.train: 5 should be a valid tuple"),
        (
            "data.img_size=[1, 2, 3]",
            "data.img_size: [1, 2, 3]: Tuple should have at most 2 items",
        ),
        ("model.encoder_kwargs.depth=deep", "model.encoder_kwargs.depth: 'deep' should be a valid"),
        ("model=3", "model: 3 should be settings, each on a line below it"),
        ("train.epochs.more=3", "train.epochs: {'more': 3} should be a valid number"),
    ],
)
def test_invalid_values(write, override, message):
    (line,) = refused(write(""), override)
    assert line.startswith("command line: ") and message in line


def test_override_below_a_value_is_an_error(write):
    lines = refused(write("train: {epochs: 5}\noptim: {warmup_epochs: 1}"), "train.epochs.more=3")
    assert lines == ["command line: train.epochs.more: epochs is a value, not a section"]


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("batch_size=64", "batch_size: unknown key, did you mean train.batch_size?"),
        ("bach_size=64", "bach_size: unknown key, did you mean train.batch_size?"),
        ("wandb=false", "wandb: unknown key, did you mean log.wandb?"),
        ("objctive=mae", "objctive: unknown key, did you mean objective?"),
    ],
)
def test_a_setting_without_its_section_is_suggested_with_it(override, hint):
    assert refused(None, override) == [f"command line: {hint}"]


# Shipped files


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load_and_are_short_under_a_header(path):
    stages = {"prior": ["model.tokenizer=runs/codes"], "sae": ["model.encoder=runs/mae"]}
    load_config(path, stages.get(path.stem, []))
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len([line for line in lines if line and not line.startswith("#")]) <= 25


def test_there_are_shipped_configs():
    assert CONFIGS


# Dump and help


def test_config_is_frozen():
    config = load_config(None)
    with pytest.raises(ValidationError, match="frozen"):
        config.output = "elsewhere"  # pyrefly: ignore
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 3  # pyrefly: ignore


def test_dump_and_load_round_trip(write):
    path = write("data: {img_size: [96, 160]}\nmodel: {encoder_kwargs: {depth: 2, eps: 1e-6}}")
    overrides = ["data.train=['a-{0..9}.tar', b.tar]", "data.max_bad=3", "optim.eps=1e-9"]
    config = load_config(path, [*overrides, "optim.blr=1e-3", "output=a #b: {c}"])
    again = write(dump_config(config))
    assert load_config(again) == config
    assert dump_config(load_config(again)) == dump_config(config)


# Objectives


def test_objective_determines_the_type_of_the_model_section(write):
    path = write("objective: classifier\nmodel: {mask_ratio: 0.5}\nfinetune: {mixup: -1}\n")
    assert refused(path) == [
        f"{path}: model.mask_ratio: unknown key, known are encoder, encoder_kwargs, patch_size",
        f"{path}: finetune.mixup: -1 should be greater than or equal to 0",
    ]
    (line,) = refused(write("finetune: {mixup: 0}\n"))
    assert "finetune: unknown key, known are output, objective, data, model, init" in line


def test_unknown_objective_is_reported_with_all_other_errors(write):
    path = write("objective: mea\nmodel: {latents: 3}\ntrian: {epochs: 1}\n")
    assert refused(path, "optim.blr=-1", "train.epochs=soon") == [
        f"{path}: objective: no 'mea', did you mean mae?",
        "command line: optim.blr: -1 should be greater than or equal to 0",
        "command line: train.epochs: 'soon' should be a valid number, "
        "unable to parse string as a number",
    ]


def test_keys_of_earlier_versions_are_renamed(write):
    path = write("model: {img_size: 96, in_chans: 1}\ndata: {mean: [0.5], std: [0.5]}\n")
    config = load_config(path, ["model.img_size=64"])
    assert (config.data.img_size, config.data.in_chans) == ((64, 64), 1)
    classifier = load_config(write("objective: classifier\nfinetune: {ema: 0.9}\n"))
    assert classifier.train.ema == 0.9
    path = write("model: {img_size: 96}\ndata: {img_size: 64}\n")
    assert refused(path) == [
        f"{path}: model.img_size: is now data.img_size, which is given too: remove one"
    ]
    (line,) = refused(write(""), "model.in_chans=0")
    assert line == "command line: data.in_chans: 0 should be greater than 0"
