import os

import pytest

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.pack.packed_folders import packed_folder
from mae.training.checkpoint.run import Run
from mae.training.folders import RECORD, prepare_folders, recorded_folders
from tests.runs import TINY


@pytest.fixture
def config(tmp_path, make_image):
    """Settings of a run on a folder of 6 images, which has a checkpoint."""
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.fromarray(make_image(number, (16, 16))).save(tmp_path / "images" / f"{number}.png")
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    words = [f"output={tmp_path}/run", f"data.train={tmp_path}/images"]
    config = load_config(path, [*words, f"data.packed_dir={tmp_path}/packed", "data.val_share=0.4"])
    prepare_folders(config)
    run = Run(config.output)
    run.open(config)
    run.write_start({RECORD: recorded_folders(config)})
    (run.checkpoints / "step-00000004").mkdir()
    return config


def test_a_resumed_run_refuses_a_folder_with_other_files(config, tmp_path):
    prepare_folders(config)
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "new.png")
    with pytest.raises(UserError) as error:
        prepare_folders(config)
    changes = "1 file added (new.png), 1 file removed (0.png)"
    assert f"has changed since {config.output} was trained on it: {changes}: res" in str(
        error.value
    )
    prepare_folders(config.model_copy(update={"output": f"{tmp_path}/other"}))  # a new run
    (tmp_path / "images" / "new.png").rename(tmp_path / "images" / "0.png")
    prepare_folders(config)


def test_files_written_anew_are_compared_by_their_samples_later(config, tmp_path):
    os.utime(tmp_path / "images" / "0.png", (1, 1))
    prepare_folders(config)


def test_both_sides_of_the_share_are_one_copy(config, tmp_path):
    assert len(list((tmp_path / "packed").glob("images-*"))) == 1
    share = config.data.val_share
    copy = packed_folder(config.data.train[0], packed_dir=config.data.packed_dir, val_share=share)
    assert copy.manifest("train") != copy.manifest("val")
