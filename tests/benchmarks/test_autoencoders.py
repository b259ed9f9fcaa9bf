"""Comparison of autoencoders: every row is a valid run, baselines are what they say."""

import pytest
import torch

from benchmarks.autoencoders.coding import pca_and_quantiser
from benchmarks.autoencoders.comparison import RowTrainer, main, summary
from benchmarks.autoencoders.data_sets import DATA_SETS, Images
from benchmarks.autoencoders.members import MEMBERS, comparison_of, member_of
from mae.config.loading import load_config

ROWS = [(name, row) for name, data in DATA_SETS.items() for row in data.rows]


@pytest.mark.parametrize(("data", "row"), ROWS, ids=lambda one: one)
def test_every_row_is_a_valid_run(data, row, tmp_path):
    trainer = RowTrainer(DATA_SETS[data], ["train.tar"], ["test.tar"], tmp_path)
    config = load_config(*trainer.settings(row, 1))
    assert config.objective == member_of(row) and config.train.seed == 1
    if first := comparison_of(row).first:
        assert first[0] in DATA_SETS[data].rows


def test_an_unknown_row_is_refused(capsys):
    pytest.importorskip("skimage")
    with pytest.raises(SystemExit) as ended:
        main(["digits", "--train", "x", "--test", "x", "--members", "vqvea"])
    assert ended.value.code == 2
    assert "no row vqvea on digits; rows: ae, dae" in capsys.readouterr().err


def test_more_bits_make_a_better_pca_coder():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(300, 1, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(low, size=(16, 16), mode="bilinear")
    sets = Images(images[:200], images[200:])
    few, many = pca_and_quantiser(sets, 16), pca_and_quantiser(sets, 128)
    assert many > few + 10


def test_a_line_shows_the_figure_of_the_member_beside_its_baselines():
    rows = [{"bits": 5.0, "bits_per_pixel": 0.3}, {"bits": 5.1, "bits_per_pixel": 0.31}]
    line = summary("prior", MEMBERS["prior"], rows, {"frequencies": 6.5})
    assert line.split() == (
        "prior bits 5.00 5.10 bits per code | frequencies 6.50; bits_per_pixel [0.3, 0.31]".split()
    )
