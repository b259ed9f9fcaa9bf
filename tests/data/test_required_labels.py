from pathlib import Path

import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.config.sections import DataConfig
from mae.data.indexing import build_manifest
from mae.data.required_labels import require_labels
from mae.evaluation.labels import check_labels, manifest_labels
from mae.pack.packed_folders import with_packed_folders


def test_all_labels_or_the_first_without_is_named(tmp_path, make_shards, make_tar):
    labelled = make_shards(tmp_path / "labelled", 4)
    assert require_labels(build_manifest([labelled]), "--train").tolist() == [0, 1, 2, 0]
    bare = make_tar(tmp_path / "bare.tar", [("x.jpg", b""), ("y.jpg", b"")])
    manifest = build_manifest([labelled, str(bare)])
    with pytest.raises(UserError) as error:
        require_labels(manifest, "--train")
    assert str(error.value) == (
        f"--train: 2 of 6 samples have no label (.cls), first {bare}: key x"
    )


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_of_a_packed_folder_the_folder_is_named_and_how_it_gives_labels(
    tmp_path, make_image, share
):
    photos = str(tmp_path / "photos")
    Path(photos).mkdir()
    for number in range(4):
        Image.fromarray(make_image(number, 20)).save(f"{photos}/{number}.png")
    data = DataConfig(train=(photos,), packed_dir=tmp_path / "packed", val_share=share)
    shards = with_packed_folders(data.train, "data.train", data)
    manifest = build_manifest(shards, "data.train")
    names = {Path(line.split("\t")[1]).name for line in _table(manifest)}
    with pytest.raises(UserError) as error:
        require_labels(manifest, "data.train")
    count = len(manifest)
    start = f"data.train: {count} of {count} samples have no label, first "
    remedy = (
        f" of {photos}: put its images into one folder for each class: {photos}/cat/…, "
        f"{photos}/dog/…"
    )
    line = str(error.value)
    assert line.startswith(start) and line.endswith(remedy)
    assert line.removeprefix(start).removesuffix(remedy) in names  # the file, not its key
    found = manifest_labels(manifest)
    with pytest.raises(UserError) as error:
        check_labels(found, found)
    assert str(error.value) == line.replace("data.train", "--train")


def _table(manifest):
    """Lines of the table of the samples' files."""
    return Path(manifest.shards[0]).with_name("sources.tsv").read_text().splitlines()[1:]
