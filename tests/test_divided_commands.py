"""Commands on two processes: the results of one, also after a kill."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from pyarrow import parquet
from safetensors.numpy import load_file

from mae.cli import main
from mae.data.index import INDEX_FOLDER
from tests.evaluation.frozen import tiny_run
from tests.evaluation.test_segmentation import png, scene
from tests.runs import completed, forked
from tests.small_batches import shrink
from tests.untrained import classifier_config, untrained_run


def pretrained(folder: Path) -> None:
    tiny_run(folder / "run")


def classifiers(folder: Path) -> None:
    for name, pool in (("run", "avg"), ("other", "token")):
        untrained_run(folder / name, classifier_config(pool, ema=0))


class Case(NamedTuple):
    """A command line, and the files or folders of its results."""

    words: list[str]
    results: list[str]
    """in the folder of one of the tests"""
    prepare: Callable[[Path], None] = pretrained
    """makes what the command needs in that folder"""

    def lines(self, folder: Path, shards: Path) -> list[str]:
        """The command line, in which RUN, OUT and SHARDS stand for places."""
        places = {"RUN": folder / "run", "OUT": folder, "SHARDS": shards}
        return [
            word.replace(name, str(place)) if name in word else word
            for word in self.words
            for name, place in [next(((n, p) for n, p in places.items() if n in word), ("", ""))]
        ]


def of_features(command: str, *options: str) -> Case:
    words = [command, "RUN", "--train", "SHARDS/train-*.tar", "--test", "SHARDS/test-*.tar"]
    return Case([*words, "--batch-size", "4", *options], [f"run/{command}.json"])


def nothing(folder: Path) -> None:
    """For commands that need the shards alone."""


CASES = {
    "index": Case(
        ["index", "SHARDS/*.tar", "--out=OUT/m.safetensors", "--index-dir=OUT/index"],
        ["m.safetensors"],
        nothing,
    ),
    "verify": Case(
        ["verify", "SHARDS/*.tar", "--out=OUT/v.json", "--index-dir=OUT/index", "--workers=0"],
        ["v.json"],
        nothing,
    ),
    "features": Case(
        [
            "features",
            "RUN",
            "SHARDS/train-*.tar",
            "--tokens",
            "--batch-size=4",
            "--out=OUT/f.safetensors",
        ],
        ["f.safetensors"],
    ),
    "embed": Case(
        [
            "embed",
            "SHARDS/train-*.tar",
            "--with",
            "RUN",
            "--batch-size=4",
            "--workers=0",
            "--out=OUT/e.parquet",
        ],
        ["e.parquet"],
    ),
    "duplicates": Case(
        [
            "duplicates",
            "SHARDS/test-*.tar",
            "--against",
            "SHARDS/train-*.tar",
            "--index-dir=OUT/index",
            "--workers=0",
            "--out=OUT/d.json",
        ],
        ["d.json"],
        nothing,
    ),
    "pack": Case(
        [
            "pack",
            "SHARDS/*.tar",
            "OUT/packed",
            "--shard-size=4",
            "--val=0.2",
            "--drop-duplicates",
            "--workers=0",
        ],
        ["packed"],
    ),
    "knn": of_features("knn", "--baselines"),
    "probe": of_features("probe", "--splits=1"),
    "segment": Case(
        [
            "segment",
            "RUN",
            "--train",
            "SHARDS/masked/train.tar",
            "--test",
            "SHARDS/masked/test.tar",
            "--patches=100",
            "--workers=0",
        ],
        ["run/segment.json"],
    ),
    "reconstruct": Case(
        ["reconstruct", "RUN", "SHARDS/train-*.tar", "--count=2", "--mask-ratio", "0.5", "0.75"],
        ["run/reconstruction.json"],
    ),
    "evaluate": Case(
        ["evaluate", "RUN", "--test", "SHARDS/train-*.tar", "--beside", "OUT/other", "--workers=0"],
        ["run/evaluation.json", "run/evaluation-confusion.png"],
        classifiers,
    ),
}
"""by the name of the command"""
KILLED = ["tests.killed", "2"]
"""kills each process once it has done two parts"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards, make_tar):
    """Labelled shards, of train and of test, and shards with masks."""
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder / "made", 40, size=20)
    made = sorted((folder / "made").glob("*.tar"))
    for number, shard in enumerate(made):
        shard.rename(folder / f"{'train' if number < len(made) - 1 else 'test'}-{number}.tar")
    (folder / "masked").mkdir()
    for name, numbers in (("train", range(20)), ("test", range(100, 116))):
        members = []
        for pixels, classes in map(scene, numbers):
            key = f"{len(members):03d}"
            members += [(f"{key}.png", png(pixels)), (f"{key}.mask.png", png(classes))]
        make_tar(folder / "masked" / f"{name}.tar", members)
    return folder


@pytest.fixture(scope="module")
def results(shards, tmp_path_factory):
    """Folders of each case: one process, two, and two after a kill; all from one start of torch."""
    folders, lines, chain = {}, {}, []
    for name, case in CASES.items():
        folders[name] = [tmp_path_factory.mktemp(f"{name}-{one}") for one in ("one", "two", "kill")]
        for folder in folders[name]:
            case.prepare(folder)
        alone, both, again = (case.lines(folder, shards) for folder in folders[name])
        lines[name] = alone
        for program in (["mae", *both], [*KILLED, "mae", *again], ["mae", *again]):
            chain += ["tests.small_batches", *program, "--then"]
    done = completed(forked("--import", "tests.small_batches", *chain[:-1]))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resuming") == len(CASES), done.stderr
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        for line in lines.values():
            assert main(line) == 0
    return folders


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_result_of_one_also_after_a_kill(name, results):
    for result in CASES[name].results:
        alone, *others = (content(folder, result) for folder in results[name])
        assert others == [alone, alone], result
    for folder in results[name]:
        assert not list(folder.rglob("*.parts")), "the parts are deleted"


def content(folder: Path, name: str) -> object:
    """Content of a result, without what differs from start to start."""
    file = folder / name
    if file.is_dir():
        inside = sorted(str(path.relative_to(folder)) for path in file.rglob("*.*"))
        return {path: content(folder, path) for path in inside if (folder / path).is_file()}
    if file.parent.name == INDEX_FOLDER and file.suffix == ".safetensors":
        return {key: values.tolist() for key, values in load_file(file).items()}  # without times
    if file.suffix == ".parquet":
        table = parquet.read_table(file)
        origin = json.loads(table.schema.metadata[b"mae"])
        del origin["model"]  # a path
        return table.to_pylist(), origin
    if file.suffix != ".json":
        return file.read_bytes()
    text = file.read_text().replace(str(folder), "")
    return {key: value for key, value in json.loads(text).items() if key not in ("date", "seconds")}
