import json

import numpy as np

from mae.generation.judging import FLOOR, judge, judgement_notes, judgement_table

DRAW = np.random.default_rng(3)


def test_like_real_images_beats_a_baseline_that_is_not():
    real, train = DRAW.normal(size=(300, 4)), DRAW.normal(size=(400, 4))
    sets = {"samples": DRAW.normal(size=(200, 4)), "baseline": DRAW.normal(size=(200, 4)) + 1}
    judged = judge(sets, real, train)
    rows = judged.report["rows"]
    assert list(rows) == [FLOOR, "samples", "baseline"]
    assert judged.report["images_per_comparison"] == 150
    assert abs(rows["samples"]["distance"] - rows[FLOOR]["distance"]) < 0.05
    assert rows["baseline"]["distance"] > 0.8  # four means of 1, in units of four variances of 1
    assert rows["samples"]["one_nn_interval"][0] < 0.5 < rows["samples"]["one_nn_interval"][1]
    assert rows["baseline"]["one_nn_accuracy"] > 0.6 and judged.report["findings"] == []
    assert judged.nearest["samples"].rows.shape == (200, 2)
    assert judged.report == judge(sets, real, train).report


def test_a_baseline_that_wins_is_named():
    real = DRAW.normal(size=(300, 4))
    sets = {"samples": DRAW.normal(size=(150, 4)) + 3, "baseline": DRAW.normal(size=(150, 4))}
    (first, second) = judge(sets, real).report["findings"]
    assert first.startswith("the baseline baseline wins over the samples: distance 0.0")
    assert "1-NN" in second
    assert judge(sets, real, ceilings=("baseline",)).report["findings"] == []


def test_equals_are_called_no_clear_difference():
    real = DRAW.normal(size=(300, 4))
    sets = {name: DRAW.normal(size=(150, 4)) for name in ("samples", "baseline")}
    (finding,) = judge(sets, real).report["findings"]
    assert finding.startswith("no clear difference between the samples and the baseline baseline")


def test_copies_of_training_images_are_found():
    real, train = DRAW.normal(size=(240, 4)), DRAW.normal(size=(400, 4)).astype(np.float16)
    judged = judge({"samples": train[:120].astype(np.float32)}, real, train)
    memory = judged.report["rows"]["samples"]["nearest_train"]
    assert memory["ratio"] == 0 and memory["nearer"] == 1 and memory["equal"] == 120
    text = " ".join(judged.report["findings"])
    assert "in 100% of the pairs of one of the samples and a held-out image, the former" in text
    assert "120 of the samples equal a training image" in text


def test_held_out_images_that_were_trained_on_give_no_ratio():
    real = DRAW.normal(size=(200, 4))
    judged = judge({"samples": DRAW.normal(size=(120, 4))}, real, real)
    rows = judged.report["rows"]
    assert [rows[name]["nearest_train"]["ratio"] for name in rows] == [None, None]
    json.dumps(judged.report, allow_nan=False)
    (finding,) = judged.report["findings"]
    assert finding.startswith("half of the held-out images or more equal a training image")
    table = judgement_table(judged.report, "pixels")
    assert table[2].endswith("no ratio") and "no ratio, nearer than held-out in 0%" in table[3]
    assert "real images no ratio, samples no ratio." in judgement_notes(judged.report, "pixels")[3]


def test_few_images_are_said():
    judged = judge({"samples": DRAW.normal(size=(20, 4))}, DRAW.normal(size=(40, 4)))
    assert judged.report["findings"][0].startswith("only 20 images per comparison")
    many = judge({"samples": DRAW.normal(size=(120, 130))}, DRAW.normal(size=(240, 130)))
    assert many.report["findings"][0].startswith("120 images for 130 features")


def test_the_table_has_a_row_for_each_set():
    judged = judge({"samples": DRAW.normal(size=(120, 4))}, DRAW.normal(size=(240, 4)))
    lines = judgement_table(judged.report, "pixels")
    assert len(lines) == 4 and lines[2].startswith(FLOOR) and "no FID" in lines[0]
    assert "50 % is ideal" in judgement_notes(judged.report, "pixels")[2]
