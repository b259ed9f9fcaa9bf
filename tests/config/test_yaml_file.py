import pytest

from mae.config.loading import load_config
from tests.config.test_loading import refused


def bomb() -> bytes:
    """A billion values in 400 bytes."""
    lines = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(["l0: &l0 [x]", *lines]).encode()


def test_anchors_are_read_as_usual(write):
    path = write("optim: &o {warmup_epochs: 1}\ntrain: {epochs: 5}\nlog: {wandb: &w false}")
    assert load_config(path).optim.warmup_epochs == 1


def test_missing_file_lists_the_configs_beside_it(write):
    path = write("")
    missing = path.with_name("rnu.yaml")
    assert refused(missing) == [f"{missing}: no such config file ({path.parent} has {path.name})"]
    lost = path.parent / "nowhere" / "run.yaml"
    assert refused(lost) == [f"{lost}: no such config file"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not readable as YAML: while parsing a flow node"),
        (b"\xff\xfe\x00", "not readable as YAML: is no text in UTF-8: 'utf-8' codec can't decode"),
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
        (b"3: 4", "not readable as YAML: the key 3 is no name: write it in quotes in"),
        (b"train: {yes: 4}", "not readable as YAML: the key True is no name"),
        (b"[a, b]: 4", "not readable as YAML: while constructing a mapping found unhashable key"),
        (b"a: " + b"[" * 9000, "not readable as YAML: is nested too deeply"),
        (b"a: &a [*a]", "not readable as YAML: more than 100,000 values, by its aliases"),
        (bomb(), "not readable as YAML: more than 100,000 values, by its aliases"),
        (b"a: 1\n" * 300_000, "not readable as YAML: 1.5 MB are too much for settings"),
        (b"a: 2020-13-45", "not readable as YAML: month must be in 1..12"),
        (bytes(512), "not readable as YAML: unacceptable character #x0000"),
    ],
)
def test_invalid_files(write, content, message):
    path = write("")
    path.write_bytes(content)
    (line,) = refused(path)
    assert line.startswith(f"{path}: {message}")


def test_folder_instead_of_a_file(tmp_path):
    assert refused(tmp_path) == [f"{tmp_path}: is a folder, not a config file"]
    (tmp_path / "config.yaml").touch()
    (line,) = refused(tmp_path)
    assert line == f"{tmp_path}: is a run folder: its own settings are {tmp_path}/config.yaml"


@pytest.mark.parametrize("path", ["configs/demo_digits.yaml", "configs/autoencoders/vae.yaml"])
def test_the_path_of_a_recipe_from_another_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (line,) = refused(path)
    name = path.rpartition("/")[2].removesuffix(".yaml")
    assert line == f"{path}: no such config file in {tmp_path}: the recipe's name is {name}"
