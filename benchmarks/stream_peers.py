"""Streams of shards by mae and by others, behind one interface, for `benchmarks.shard_streams`.

Runs in an interpreter that has the one package it measures, and imports that where it is used.
"""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SHUFFLE_BUFFER = 1000
"""samples in the shuffle buffers of the others"""
SEED = 0

INSTALL = {
    "mae": "pip install maekit",
    "energon": "pip install megatron-energon",
    "webdataset": "pip install webdataset torchdata",
    "streaming": "pip install mosaicml-streaming",
}
"""implementations, and the packages they need"""


class Sample(NamedTuple):
    """One sample of a stream."""

    key: str
    data: Any
    """the file's bytes, or the decoded crop"""


class Stream:
    """Samples of `folder` for one rank: tars, and in `mds/` the same for streaming."""

    packages: tuple[str, ...] = ()
    """modules to import beforehand"""

    def __init__(self, folder: Path, workers: int, is_decoded: bool) -> None:
        self.folder = folder
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.workers, self.is_decoded = workers, is_decoded
        self.shards = sorted(map(str, folder.glob("*.tar")))

    def __iter__(self) -> Iterator[Sample]:
        raise NotImplementedError

    def state(self) -> Any:
        """State after the samples received, for JSON or torch.save."""
        raise NotImplementedError

    def load(self, state: Any) -> None:
        """Go on after `state`, before iterating."""
        raise NotImplementedError

    def opened(self, data: bytes) -> Any:
        """The bytes or, decoded, a crop by Pillow and torchvision, uint8 [3 224 224]."""
        return crop_by_torchvision(data) if self.is_decoded else data


def crop_by_torchvision(data: bytes) -> Any:
    """Random crop of 224 px and flip, as is usual: uint8 [3 224 224]."""
    from PIL import Image
    from torchvision.transforms import InterpolationMode, functional
    from torchvision.transforms import RandomResizedCrop as Crop

    with Image.open(io.BytesIO(data)) as opened:
        image: Any = opened.convert("RGB")
    box = Crop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3])
    image = functional.resized_crop(image, *box, [224, 224], InterpolationMode.BICUBIC)
    return functional.pil_to_tensor(image)


class Mae(Stream):
    """`mae.ShardStream`, single samples; crops by mae itself."""

    packages = ("mae.data.shard_stream",)
    is_own = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        import mae

        how: dict[str, Any] = {"decode": False}
        if self.is_decoded:
            how = {"img_size": 224} if self.is_own else {**how, "transform": crop_by_torchvision}
        self.stream = mae.ShardStream(
            self.shards,
            None,
            seed=SEED,
            epochs=1,
            last="cut",
            workers=self.workers,
            rank=self.rank,
            world_size=self.world,
            **how,
        )

    def __iter__(self) -> Iterator[Sample]:
        for sample in self.stream:
            yield Sample(self.stream.manifest.key(int(sample.samples)), sample.images)

    def state(self) -> Any:
        """State of its loader."""
        return self.stream.state_dict()

    def load(self, state: Any) -> None:
        """Give the state to its loader."""
        self.stream.load_state_dict(state)


class MaeWithTorchvision(Mae):
    """The same with the crops of the others."""

    is_own = False


class WebDataset(Stream):
    """webdataset, deterministic shuffle, in torchdata's StatefulDataLoader."""

    packages = ("webdataset", "torchdata.stateful_dataloader")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        import webdataset
        from torchdata.stateful_dataloader import StatefulDataLoader  # pyrefly: ignore

        samples: Any = webdataset.WebDataset(
            self.shards,
            shardshuffle=100,
            detshuffle=True,
            seed=SEED,
            nodesplitter=lambda urls: list(urls)[self.rank :: self.world],
        )
        samples = samples.compose(webdataset.detshuffle(SHUFFLE_BUFFER, seed=SEED))
        samples = samples.map(lambda one: Sample(one["__key__"], self.opened(one["jpg"])))
        self.loader = StatefulDataLoader(samples, batch_size=None, num_workers=self.workers)

    def __iter__(self) -> Iterator[Sample]:
        yield from self.loader

    def state(self) -> Any:
        """State of its loader."""
        return self.loader.state_dict()

    def load(self, state: Any) -> None:
        """Give the state to its loader."""
        self.loader.load_state_dict(state)


class Energon(Stream):
    """Megatron-Energon's savable loader over the same tars, with its index; without end."""

    packages = ("megatron.energon",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        from megatron import energon  # pyrefly: ignore

        @energon.stateless
        def cook(sample: dict) -> dict:
            return {**energon.basic_sample_keys(sample), "data": self.opened(sample["jpg"])}

        class Encoder(energon.DefaultTaskEncoder):
            decoder = None
            cookers = (energon.Cooker(cook),)

        workers = energon.WorkerConfig(
            rank=self.rank, world_size=self.world, num_workers=self.workers, seed_offset=SEED
        )
        samples = energon.get_train_dataset(
            self.folder,
            worker_config=workers,
            batch_size=None,
            shuffle_buffer_size=SHUFFLE_BUFFER,
            max_samples_per_sequence=100,
            task_encoder=Encoder(),
        )
        self.loader = energon.get_savable_loader(samples, checkpoint_every_sec=1)

    def __iter__(self) -> Iterator[Sample]:
        for sample in self.loader:
            yield Sample(sample["__key__"].rpartition("/")[2], sample["data"])

    def state(self) -> Any:
        """State of its loader."""
        return self.loader.save_state_rank()

    def load(self, state: Any) -> None:
        """Give the state to its loader."""
        self.loader.restore_state_rank(state)


class Streaming(Stream):
    """MosaicML streaming, on its own format."""

    packages = ("streaming",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        from streaming import StreamingDataLoader, StreamingDataset  # pyrefly: ignore

        self.samples = StreamingDataset(
            local=str(self.folder / "mds"),
            shuffle=True,
            shuffle_seed=SEED,
            batch_size=1,
            num_canonical_nodes=2,
        )
        self.loader = StreamingDataLoader(
            self.samples, batch_size=1, num_workers=self.workers, collate_fn=_columns
        )

    def __iter__(self) -> Iterator[Sample]:
        for one in self.loader:
            yield Sample(one["key"][0], self.opened(one["jpg"][0]))

    def state(self) -> Any:
        """State of its loader."""
        return self.loader.state_dict()

    def load(self, state: Any) -> None:
        """Give the state to its loader."""
        self.loader.load_state_dict(state)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


STREAMS: dict[str, type[Stream]] = {
    "mae": Mae,
    "mae, torchvision's crops": MaeWithTorchvision,
    "energon": Energon,
    "webdataset": WebDataset,
    "streaming": Streaming,
}


def write_mds(folder: Path) -> None:
    """Write the samples of the tars in `folder` in streaming's format, to `folder`/mds."""
    import tarfile

    from streaming import MDSWriter  # pyrefly: ignore

    columns = {"key": "str", "jpg": "bytes"}
    with MDSWriter(out=str(folder / "mds"), columns=columns, size_limit=1 << 23) as out:
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    name, _, extension = member.name.partition(".")
                    if extension == "jpg" and (file := tar.extractfile(member)):
                        out.write({"key": name, "jpg": file.read()})


def prepare_energon(folder: Path) -> None:
    """Write energon's index and description of the tars in `folder`."""
    import subprocess
    import sys

    program = str(Path(sys.executable).with_name("energon"))
    words = [program, "prepare", str(folder), "--non-interactive", "--num-workers", "1"]
    words += ["--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset", "--force-overwrite"]
    subprocess.run(words, check=True, capture_output=True)


def load_state(path: Path) -> Any:
    """A state that `save_state` wrote."""
    import torch

    is_json = path.read_bytes()[:1] == b"{"
    return json.loads(path.read_text()) if is_json else torch.load(path, weights_only=False)


def save_state(state: Any, path: Path) -> None:
    """Write JSON where the state allows it, else use torch.save, as the peers document."""
    import torch

    try:
        path.write_text(json.dumps(state))
    except TypeError:
        torch.save(state, path)
