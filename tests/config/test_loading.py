from pathlib import Path

import pytest
from pydantic import ValidationError

from mae.base.errors import UserError
from mae.config.loading import describe_settings, dump_config, load_config
from mae.config.sections import sections
from mae.config.types import flatten
from mae.config.validation import differing_keys
from mae.objectives.mae.declaration import MaeModel, model_of
from mae.objectives.registry import OBJECTIVES, config_type, declaration

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    """`write(text)` → the path of a config of that text."""

    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def refused(path, *overrides):
    """The lines of the complaint."""
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    return str(error.value).splitlines()


# Where settings come from


def test_defaults_are_the_papers_recipe(write):
    config = load_config(write(""))
    assert config == config_type("mae")(output="runs/run")
    model = model_of(config)
    assert (model.encoder, model.mask_ratio) == ("vit_base_patch16_224", 0.75)
    assert (config.train.batch_size, config.train.epochs) == (4096, 800)
    assert (config.optim.blr, config.optim.betas) == (1.5e-4, (0.9, 0.95))
    assert (config.optim.warmup_epochs, config.optim.weight_decay) == (40, 0.05)
    assert (config.data.scale, model.norm_pix_loss) == ((0.2, 1.0), True)


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(write):
    path = write("train: {epochs: 10, batch_size: 64}\noptim: {warmup_epochs: 1}\n")
    config = load_config(path, ["train.epochs=20", "log.every=5", "output=there"])
    assert (config.train.epochs, config.train.batch_size) == (20, 64)
    assert (config.log.every, config.train.seed) == (5, 0)
    assert config.output == "there"


def test_the_last_override_wins(write):
    assert load_config(write(""), ["train.seed=1", "train.seed=2"]).train.seed == 2


def test_a_section_without_lines_is_empty(write):
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
def test_patterns_on_the_command_line_stay_text(write, text):
    assert load_config(write(""), [f"data.train={text}"]).data.train == (text,)


def test_a_list_of_shards(write):
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


def test_none_goes_back_to_the_default(write):
    path = write("optim: {lr: 0.1}\nmodel: {patch_size: 8}")
    config = load_config(path, ["optim.lr=null", "model.patch_size="])
    assert config.optim.lr is None and model_of(config).patch_size is None


# Mistakes


def test_all_mistakes_at_once_one_line_each_with_file_and_key(write):
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


def test_an_unknown_key_that_resembles_none_lists_the_known(write):
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
def test_impossible_values(write, override, message):
    (line,) = refused(write(""), override)
    assert line.startswith("command line: ") and message in line


def test_an_override_below_a_value_is_a_mistake(write):
    lines = refused(write("train: {epochs: 5}\noptim: {warmup_epochs: 1}"), "train.epochs.more=3")
    assert lines == ["command line: train.epochs.more: epochs is a value, not a section"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epochs=30"], "optim.warmup_epochs: 40, but train.epochs is only 30"),
        (["data.scale=[0.5, 0.2]"], "data.scale: [0.5, 0.2] is no range of positive numbers"),
        (["data.scale=[0, 1]"], "data.scale: [0, 1] is no range of positive numbers"),
        (["data.scale=[0.5, 1.5]"], "data.scale: a crop of 1.5 times the image's area"),
        (["data.ratio=[2, 1]"], "data.ratio: [2, 1] is no range of positive numbers"),
        (["data.mean=[0.5]"], "data.mean: 1 numbers for data.in_chans = 3"),
        (["data.std=[0.5, 0.5]"], "data.std: 2 numbers for data.in_chans = 3"),
        (["data.train=a.tar", "data.mixture=[{shards: b.tar}]"], "is instead of data.train"),
        (
            ["data.mixture=[{shards: a.tar, weight: 2000}, {shards: b.tar}]"],
            "data.mixture: a weight below a thousandth",
        ),
        (["data.order=lanes", "data.lanes=48"], "data.lanes: 48 do not divide train.batch_size"),
        (["data.repeats=3"], "data.repeats: 3 do not divide train.batch_size = 4096"),
        (["model.decoder_embed_dim=500"], "500 must divide by 4 (sine-cosine positions) and by"),
        (["model.decoder_embed_dim=6", "model.decoder_num_heads=3"], "6 must divide by 4"),
        (["model.encoder_kwargs.img_size=96"], "model.encoder_kwargs.img_size: is set elsewhere"),
        (["optim.blr=0"], "optim.blr: a learning rate of 0 learns nothing"),
    ],
)
def test_contradictions(write, overrides, message):
    (line,) = refused(write(""), *overrides)
    assert message in line


def test_contradictions_come_together_and_say_where(write):
    path = write("data: {mean: [0.5], std: [0.5]}\noptim: {warmup_epochs: 9}\ntrain: {epochs: 9}\n")
    hint = "(data.own_statistics=true measures them)"
    assert refused(path, "data.ratio=[2, 1]") == [
        f"{path}: optim.warmup_epochs: 9, but train.epochs is only 9",
        "command line: data.ratio: [2, 1] is no range of positive numbers",
        f"{path}: data.mean: 1 numbers for data.in_chans = 3 {hint}",
        f"{path}: data.std: 1 numbers for data.in_chans = 3 {hint}",
    ]


# Files


def test_a_missing_file_names_its_neighbours(write):
    path = write("")
    missing = path.with_name("rnu.yaml")
    assert refused(missing) == [f"{missing}: no such config file ({path.parent} has {path.name})"]
    lost = path.parent / "nowhere" / "run.yaml"
    assert refused(lost) == [f"{lost}: no such config file"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not readable as YAML: while parsing a flow node"),
        (b"\xff\xfe\x00", "not readable as YAML: 'utf-8' codec can't decode byte"),
        (b"- a\n- b\n", "not a config: write sections such as `model:`"),
        (b"words", "not a config: write sections such as `model:`"),
        (b"a: !!python/object/apply:os.getcwd []", "not readable as YAML: could not determine"),
        (
            b"model: {mask_ratio: 0.5}\nmodel: {patch_size: 8}",
            "not readable as YAML: model is written twice in",
        ),
        (
            b"data:\n  in_chans: 1\n  in_chans: 3\n",
            "not readable as YAML: in_chans is written twice in",
        ),
        (b"3: 4", "3: 3: Keys should be strings"),
    ],
)
def test_files_that_are_no_config(write, content, message):
    path = write("")
    path.write_bytes(content)
    (line,) = refused(path)
    assert line.startswith(f"{path}: {message}")


def test_a_folder_is_no_config(tmp_path):
    (line,) = refused(tmp_path)
    assert line.startswith(f"{tmp_path}: not readable as YAML: ") and "Is a directory" in line


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load_and_are_short_under_a_header(path):
    load_config(path)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len([line for line in lines if line and not line.startswith("#")]) <= 25


def test_there_are_shipped_configs():
    assert CONFIGS


# What is done with a config


def test_frozen():
    config = load_config(None)
    with pytest.raises(ValidationError, match="frozen"):
        config.output = "elsewhere"  # pyrefly: ignore
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 3  # pyrefly: ignore


def test_dump_reads_back_to_the_same(write):
    path = write("data: {img_size: [96, 160]}\nmodel: {encoder_kwargs: {depth: 2, eps: 1e-6}}")
    overrides = ["data.train=['a-{0..9}.tar', b.tar]", "data.index_dir=there", "optim.eps=1e-9"]
    config = load_config(path, [*overrides, "optim.blr=1e-3", "output=a #b: {c}"])
    again = write(dump_config(config))
    assert load_config(again) == config
    assert dump_config(load_config(again)) == dump_config(config)


def old_keys(config):
    return list(flatten(config.model_dump(mode="json")))


def test_differing_keys_are_those_that_decide_what_is_learned(write):
    path = write("")
    old = load_config(path)
    free = ["output=x", "log.every=1", "data.workers=0", "data.val=v.tar", "data.index_dir=i"]
    free += ["train.compile=true", "train.max_device_batch=8", "train.num_processes=2"]
    free += ["train.checkpoint_every=7", "train.keep_last=3"]
    free += ["train.epochs=900", "guard.rollback=true", "train.timeout_minutes=5"]
    decisive, changed = differing_keys(old, load_config(path, free))
    assert decisive == []
    assert [line.partition(":")[0] for line in changed] == [
        key for key in old_keys(old) if key in {setting.partition("=")[0] for setting in free}
    ]
    assert "train.epochs: 800.0 → 900.0" in changed
    new = load_config(path, ["train.seed=1", "model.encoder_kwargs.depth=2", "data.flip=false"])
    assert differing_keys(old, new) == (
        [
            "data.flip: True → False",
            "model.encoder_kwargs: {} → None",
            "train.seed: 0 → 1",
            "model.encoder_kwargs.depth: None → 2",
        ],
        [],
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_setting_is_described(name):
    config = config_type(name)
    text = describe_settings(declaration(name).command)
    assert text.startswith("output = ''\n      ")
    assert f"      {name}: {declaration(name).summary}" in text
    for section_name, section in sections(config).items():
        assert section.__doc__ and f"{section_name}:  {section.__doc__}" in text
        for key, field in section.model_fields.items():
            assert field.description, f"{section_name}.{key}"
            default = field.get_default(call_default_factory=True)
            line = f"  {section_name}.{field.alias or key} = {default}\n      {field.description}"
            assert line in text
    assert set(config.model_fields) == {"output", "objective", *sections(config)}


# Objectives


def test_the_objective_decides_the_type_of_the_model_section(write):
    path = write("objective: classifier\nmodel: {mask_ratio: 0.5}\nfinetune: {mixup: -1}\n")
    assert refused(path) == [
        f"{path}: model.mask_ratio: unknown key, known are encoder, encoder_kwargs, patch_size",
        f"{path}: finetune.mixup: -1 should be greater than or equal to 0",
    ]
    (line,) = refused(write("finetune: {mixup: 0}\n"))
    assert "finetune: unknown key, known are output, objective, data, model, init" in line


def test_an_unknown_objective_comes_with_all_other_mistakes(write):
    path = write("objective: mea\nmodel: {latents: 3}\ntrian: {epochs: 1}\n")
    assert refused(path, "optim.blr=-1", "train.epochs=soon") == [
        f"{path}: objective: no 'mea', did you mean mae?",
        "command line: optim.blr: -1 should be greater than or equal to 0",
        "command line: train.epochs: 'soon' should be a valid number, "
        "unable to parse string as a number",
    ]


def test_keys_of_earlier_versions_are_read_as_those_of_today(write):
    path = write("model: {img_size: 96, in_chans: 1}\ndata: {mean: [0.5], std: [0.5]}\n")
    config = load_config(path, ["model.img_size=64"])
    assert (config.data.img_size, config.data.in_chans) == ((64, 64), 1)
    classifier = load_config(write("objective: classifier\nfinetune: {ema: 0.9}\n"))
    assert classifier.train.ema == 0.9
    path = write("model: {img_size: 96}\ndata: {img_size: 64}\n")
    assert refused(path) == [
        f"{path}: model.img_size: is data.img_size now, which is given too: remove one"
    ]
    (line,) = refused(write(""), "model.in_chans=0")
    assert line == "command line: data.in_chans: 0 should be greater than 0"
