"""`mae anomaly`: fit, score and evaluate on shards."""

import json
import shutil

import pytest
from PIL import Image

from mae.anomaly.detector import PARAMETERS, SETTINGS
from mae.cli import main
from mae.config.sections import DataConfig
from tests.anomaly.surfaces import fit_words, picture, shard
from tests.evaluation.frozen import tiny_run
from tests.runs import completed, forked
from tests.untrained import NUMBERS, classifier_config, tiny_config, untrained_run

QUICK = ["--workers", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surfaces")
    shard(folder / "normal.tar", 0, [0] * 32)
    shard(folder / "calibration.tar", 100, [0] * 20)
    shard(folder / "test.tar", 200, [0] * 16 + [1] * 8)
    return folder


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("detector") / "surface"
    assert main(fit_words(data, out)) == 0
    return out


def test_defects_are_found_and_false_alarms_are_as_chosen(data, detector, tmp_path, capsys):
    out = tmp_path / "e.json"
    words = ["anomaly", "evaluate", str(detector), "--test", f"{data}/test.tar", "--out", str(out)]
    words += QUICK
    assert main(words) == 0
    report, said = json.loads(out.read_text()), capsys.readouterr().out
    row = report["results"]["detector"]
    assert row["auroc"] > 0.99 and row["detected"] == row["anomalous"] == 8
    assert row["as_expected"] and row["normal"] == 16
    assert list(report["results"]) == ["detector", "pixels, pca", "pixels, knn"]
    assert "contrast, gaussian (detector)" in said and "raw pixels reach" in said
    page = (tmp_path / "e.html").read_text()
    assert page.count("<figure") == 24 and "class 1" in page


def test_normal_images_are_known_by_the_name_of_their_class(data, detector, tmp_path, capsys):
    folder, out = tmp_path / "packed", tmp_path / "e.json"
    folder.mkdir()
    shard(folder / "test.tar", 200, [1] * 16 + [0] * 8, looks=[0] * 16 + [1] * 8)
    shard(folder / "normal.tar", 0, [1] * 32, looks=[0] * 32)
    shard(folder / "calibration.tar", 100, [1] * 20, looks=[0] * 20)
    (folder / "classes.txt").write_text("abnormal\nnormal\n")
    words = ["anomaly", "evaluate", str(detector), "--test", f"{folder}/test.tar"]
    assert main([*words, "--out", str(out), *QUICK]) == 0
    report = json.loads(out.read_text())
    assert report["results"]["detector"]["auroc"] > 0.99
    assert report["normal_classes"] == ["normal"]
    assert "normal images: of normal; all others" in capsys.readouterr().out
    assert "abnormal" in (tmp_path / "e.html").read_text()
    (folder / "classes.txt").write_text("broken\nfine\n")
    assert main(fit_words(folder, tmp_path / "d")) == 2
    assert "of another class than broken" in capsys.readouterr().err
    assert main(fit_words(folder, tmp_path / "d", "--normal-class", "fine")) == 0
    words[2] = str(tmp_path / "d")  # the detector keeps the name
    assert main([*words, "--out", str(out), *QUICK]) == 0
    assert json.loads(out.read_text())["results"]["detector"]["auroc"] > 0.99


def test_scores_are_sorted_with_p_values(data, detector, tmp_path, capsys):
    out = tmp_path / "s.json"
    words = ["anomaly", "score", str(detector), f"{data}/test.tar", "--out", str(out), *QUICK]
    assert main(words) == 0
    rows = json.loads(out.read_text())["images"]
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True) and len(rows) == 24
    assert all(row["is_anomalous"] for row in rows[:8])
    assert rows[0]["p"] == pytest.approx(1 / 21) and rows[-1]["p"] > 0.05
    assert "of 24 images above the threshold" in capsys.readouterr().out


@pytest.mark.fault
def test_two_processes_fit_and_score_as_one_also_after_a_kill(data, detector, tmp_path):
    words, score = fit_words(data, tmp_path / "two"), ["anomaly", "score", str(tmp_path / "two")]
    score += [f"{data}/test.tar", "--out", str(tmp_path / "two.json")]
    chain = ["tests.killed", "1", "mae", *words, "--then", "mae", *words, "--then", "mae", *score]
    done = completed(forked(*chain))
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    for name in (SETTINGS, PARAMETERS):
        assert (tmp_path / "two" / name).read_bytes() == (detector / name).read_bytes()
    words = [
        "anomaly",
        "score",
        str(detector),
        f"{data}/test.tar",
        "--out",
        str(tmp_path / "one.json"),
    ]
    assert main(words) == 0
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["images"] == two["images"]


def test_a_detector_of_an_encoder_opens_without_it(data, tmp_path, capsys):
    run, out = tiny_run(tmp_path / "run"), tmp_path / "detector"
    assert main(fit_words(data, out, "--features", str(run), "--scorer", "pca")) == 0
    run.rename(tmp_path / "moved")
    words = ["anomaly", "evaluate", str(out), "--test", f"{data}/test.tar", *QUICK]
    assert main(words) == 0
    report = json.loads((out / "evaluation.json").read_text())["results"]
    assert list(report) == ["detector", "pixels, pca", "pixels, knn", "untrained encoder"]
    assert "blocks" in report["detector"]["member"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--alpha", "0.01"], "20 images; a false-alarm rate of 0.01 needs 99 or more"),
        (["--normal", "{data}/test.tar"], "8 of 24 images are of another class than class 0"),
        (["--calibration", "{data}/normal.tar"], "32 of its images are in --normal too"),
        (["--layers", "1"], "--layers: --features contrast has none"),
        (["--tile-size", "32"], "compares patches of one position: use --tiles, or --scorer pca"),
        (["--tile-size", "30", "--scorer", "pca"], "30 is no multiple of 4 pixels"),
        (["--scorer", "reconstruction"], "--scorer reconstruction: needs a model: add --features"),
        (["--reference", "{data}/missing.png"], "missing.png: no such file or folder"),
        (["--reference", "pairs"], "no image KEY.ref.png beside it, as 31 others"),
        (["--normal", "{data}/nowhere"], "nowhere"),
    ],
)
def test_what_would_mislead_is_refused_in_one_line(options, words, data, tmp_path, capsys):
    options = [option.format(data=data) for option in options]
    assert main(fit_words(data, tmp_path / "d", *options)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not (tmp_path / "d").exists()


@pytest.fixture
def small_coreset(monkeypatch):
    """Fewer patches of the baseline `knn`, whose distances would be most of the work."""
    monkeypatch.setattr("mae.anomaly.scorers.CORESET", 300)


@pytest.mark.usefixtures("small_coreset")
@pytest.mark.parametrize(
    "options",
    [
        ["--tile-size", "24", "--scorer", "pca"],
        ["--tiles", "2"],
        ["--scorer", "decoder"],
        ["--scorer", "decoder", "--features", "{run}", "--tile-size", "16"],
        ["--scorer", "reconstruction", "--features", "{run}"],
        ["--scorer", "reconstruction", "--features", "{run}", "--tiles", "3"],
    ],
    ids=lambda options: " ".join(options[:4]),
)
def test_tiles_decoders_and_reconstructions_find_defects(options, data, tmp_path, monkeypatch):
    monkeypatch.setattr("mae.anomaly.decoder.STEPS", 60)
    run, out = tiny_run(tmp_path / "run"), tmp_path / "detector"
    options = [option.format(run=run) for option in options]
    assert main(fit_words(data, out, *options)) == 0
    run.rename(tmp_path / "moved")
    words = ["anomaly", "evaluate", str(out), "--test", f"{data}/test.tar", *QUICK]
    assert main(words) == 0
    row = json.loads((out / "evaluation.json").read_text())["results"]["detector"]
    assert row["auroc"] > 0.85


def test_models_of_float_arrays_are_refused(data, tmp_path, capsys):
    floats = DataConfig(train=("gone.tar",), mean=NUMBERS, std=NUMBERS, bits=32)
    run = untrained_run(tmp_path / "run", tiny_config(data=floats))
    assert main(fit_words(data, tmp_path / "d", "--features", str(run))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "trained on arrays of floats (data.bits=32)" in line


def test_parameters_of_another_detector_are_refused(data, detector, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    shutil.copytree(detector, mixed)
    content = bytearray((mixed / PARAMETERS).read_bytes())
    content[-1] ^= 1
    (mixed / PARAMETERS).write_bytes(content)
    out = tmp_path / "s.json"
    assert main(["anomaly", "score", str(mixed), f"{data}/test.tar", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{PARAMETERS}: is not of this {SETTINGS}" in line and not out.exists()


def test_models_without_reconstructions_are_refused(data, tmp_path, capsys):
    run = untrained_run(tmp_path / "run", classifier_config())
    options = ["--features", str(run), "--scorer", "reconstruction"]
    assert main(fit_words(data, tmp_path / "d", *options)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "objective classifier has no reconstructions; mae anomaly needs them" in line


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders `good` and `broken`, references beside the images, and in a folder of their own."""
    top = tmp_path_factory.mktemp("folders")
    parts = {"train": range(32), "calibration": range(100, 120), "test": range(200, 224)}
    for part, numbers in parts.items():
        for number in numbers:
            folder = "broken" if number >= 216 else "good"
            image, clean = (Image.fromarray(picture(number, d)) for d in (number >= 216, False))
            for place in (top / part / folder, top / "references" / folder):
                place.mkdir(parents=True, exist_ok=True)
            image.save(top / part / folder / f"{number}.png")
            clean.save(top / part / folder / f"{number}.ref.png")
            clean.save(top / "references" / folder / f"{number}.png")
    return top


@pytest.mark.usefixtures("small_coreset")
def test_folders_of_images_with_references(folders, tmp_path, capsys):
    out = tmp_path / "d"
    words = ["anomaly", "fit", str(out), "--normal", f"{folders}/train", *QUICK, "--channels", "1"]
    words += ["--calibration", f"{folders}/calibration", "--scorer", "pca", "--reference", "pairs"]
    assert main(words) == 0
    assert main(["anomaly", "evaluate", str(out), "--test", f"{folders}/test", *QUICK]) == 0
    report = json.loads((out / "evaluation.json").read_text())["results"]
    assert report["detector"]["auroc"] == 1 and report["detector"]["anomalous"] == 8
    assert report["detector"]["member"] == "contrast minus reference, pca"
    alone = f"{folders}/test/good/200.png"
    words = ["anomaly", "score", str(out), alone, "--out", str(tmp_path / "s.json"), *QUICK]
    assert main(words) == 0
    (row,) = json.loads((tmp_path / "s.json").read_text())["images"]
    assert row["image"] == alone and not row["is_anomalous"]
    capsys.readouterr()


@pytest.mark.usefixtures("small_coreset")
def test_a_single_reference_is_kept_and_matched_ones_are_asked_for(folders, tmp_path, capsys):
    settings = [*QUICK, "--channels", "1", "--scorer", "pca"]
    known = ["--normal", f"{folders}/train", "--calibration", f"{folders}/calibration"]
    single, matched = tmp_path / "template.png", f"{folders}/references"
    single.write_bytes((folders / "train/good/0.ref.png").read_bytes())
    for name, reference in (("one", str(single)), ("many", matched)):
        words = ["anomaly", "fit", str(tmp_path / name), *known, *settings, "--reference"]
        words.append(reference)
        assert main(words) == 0
    single.unlink()
    scores = {}
    for name, more in (("one", []), ("many", ["--reference", matched])):
        out = tmp_path / f"{name}.json"
        words = ["anomaly", "score", str(tmp_path / name), f"{folders}/test", *QUICK]
        assert main([*words, "--out", str(out), *more]) == 0
        rows = json.loads(out.read_text())["images"]
        scores[name] = {row["image"]: row["is_anomalous"] for row in rows}
    assert all(flag for image, flag in scores["many"].items() if "broken" in image)
    assert scores["one"].keys() == scores["many"].keys()
    words = ["anomaly", "score", str(tmp_path / "many"), f"{folders}/test"]
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "s.json")]) == 2
    assert "compares images with references of the same key: add --reference" in (
        capsys.readouterr().err
    )


def test_references_are_refused_where_the_detector_has_none(detector, data, tmp_path, capsys):
    words = ["anomaly", "score", str(detector), f"{data}/test.tar", "--reference", "pairs"]
    assert main([*words, "--out", str(tmp_path / "s.json")]) == 2
    assert "was fitted without references" in capsys.readouterr().err


def test_a_folder_that_is_no_detector_and_one_that_is_there(data, detector, tmp_path, capsys):
    assert (
        main(["anomaly", "score", str(tmp_path), "x.tar", "--out", str(tmp_path / "s.json")]) == 2
    )
    assert "is no detector" in capsys.readouterr().err
    assert main(fit_words(data, detector)) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
