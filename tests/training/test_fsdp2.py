"""Sharded weights (FSDP2) through the whole command, with the launcher's own file."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import UserError
from mae.config.sections import TrainConfig
from mae.pretrain import main
from mae.training.plan import build_accelerator
from tests.networks.encoders.option_sets import tiny_arguments
from tests.runs import LAUNCH, environment, final_weights, metrics_of, write_config
from tests.test_toy import write_config as write_toy

STEPS = 13
KILLED_AFTER, CHECKPOINT = 6, 4
SETTINGS = ("train.epochs=2", "log.panel_every=5", "train.timeout_minutes=7")
BF16 = (
    "train.epochs=1",
    "optim.warmup_epochs=0.5",
    "train.precision=bf16",
    "train.max_device_batch=2",
)

ENCODERS = {
    "rope": ("vit_small_patch16_dinov3_qkvb", "EvaBlock"),
    "mixed": ("vit_small_patch16_rope_mixed_ape_224", "EvaBlock"),  # rotations are a parameter
    "postnorm": ("eva02_enormous_patch14_clip_224", "EvaBlockPostNorm"),
    "hiera": ("hiera_tiny_224", "HieraBlock"),  # its fusion is run outside the decoder
}
"""name of a pair of runs → encoder, class of its blocks"""

TOY = ("train.epochs=1.5", "train.ema=0.9", "optim.clip_grad=0.05", "log.panel_every=5")

# accelerate shards on GPUs only.  Asked to after its start, it does so on CPUs, by what
# launch/fsdp2.yaml says; all other code is the run's own.  One process is launched, and has the
# others as copies of itself: importing everything is most of the time.
LEGS = """
import json, os, shutil, signal, socket, sys, traceback
from pathlib import Path
import torch
import torch.distributed as dist
import mae.training.plan
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from mae.training.safety.step_flags import StepFlagReducer

build, reduce, recorded = mae.training.plan.build_accelerator, StepFlagReducer.reduce, {}
kinds = {}

def build_sharded(config, use_cpu=False):
    accelerator = build(config)
    if kinds["now"] == "ddp":
        return accelerator
    plugin = FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)  # as it is done on GPUs
    recorded["reshard_after_forward"] = plugin.reshard_after_forward
    recorded["wrapped"] = plugin.transformer_cls_names_to_wrap
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    return accelerator

mae.training.plan.build_accelerator = build_sharded
import torch.distributed.fsdp
from mae.objectives import registry
from mae.pretrain import main

shard = torch.distributed.fsdp.fully_shard

def shard_and_record(module, **settings):
    recorded.setdefault("modules", []).append(type(module).__name__)
    return shard(module, **settings)

torch.distributed.fsdp.fully_shard = shard_and_record

registry.OBJECTIVES["toy"] = "tests.toy"

def seconds(group):
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()

def record(reducer, own):
    recorded.setdefault("timeouts", [seconds(dist.group.WORLD), seconds(reducer.group)])
    answer = reduce(reducer, own)
    kinds["steps"] += 1
    if kinds["steps"] == kinds["last"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer

StepFlagReducer.reduce = record
PartialState.destroy_process_group = lambda self: None  # the next leg needs the processes

def leg(kind, config, settings, last=0):
    kinds.update(now=kind, steps=0, last=last)
    AcceleratorState._reset_state()
    if PartialState._shared_state:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_CPU
    assert main([config, *settings]) == 0

def together(*legs):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        if child := os.fork():
            children.append(child)
            continue
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
        os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
        try:
            for one in legs:
                leg(*one)
            recorded["rank"] = rank
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if rank == 0:
                open(RECORD, "w").write(json.dumps(recorded))
            os._exit(0 if "rank" in recorded else 1)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shards):
    """Runs: killed when sharded; gone on sharded, by DDP and by one process; bf16."""
    folder = tmp_path_factory.mktemp("fsdp2")
    configs = {}
    for name in ("killed", "sharded", "ddp", "one", "undisturbed", "bf16_sharded", "bf16_ddp"):
        (folder / name).mkdir()
        configs[name] = str(write_config(folder / name, shards))
    for name in ("toy_sharded", "toy_ddp"):  # clipped, with an average, both sharded
        configs[name] = str(write_toy(folder / name, shards))
    encoders = []
    for name, (encoder, _) in ENCODERS.items():
        for kind in ("sharded", "ddp"):
            (folder / f"{name}_{kind}").mkdir()
            config = str(write_config(folder / f"{name}_{kind}", shards))
            sizes = ", ".join(f"{key}: {value}" for key, value in tiny_arguments(encoder).items())
            settings = ("train.epochs=1", "optim.warmup_epochs=0.5", f"model.encoder={encoder}")
            settings += (f"model.encoder_kwargs={{{sizes}}}",)
            encoders.append((kind, config, settings))
    toy = [(name, configs[f"toy_{name}"], TOY) for name in ("sharded", "ddp")]
    go_on = [(name, configs[name], SETTINGS) for name in ("sharded", "ddp")]
    bf16 = [(name, configs[f"bf16_{name}"], BF16) for name in ("sharded", "ddp")]
    script = folder / "legs.py"
    script.write_text(
        f"""{LEGS}
RECORD = {str(folder / "record.json")!r}
assert together({("sharded", configs["killed"], SETTINGS, KILLED_AFTER)!r}) == [-9, -9]
for name in ("sharded", "ddp", "one"):
    old, new = (Path({str(folder)!r}) / one / "run" for one in ("killed", name))
    shutil.copytree(old, new)
    copied = new / "config.yaml"
    copied.write_text(copied.read_text().replace(str(old), str(new)))
assert together(*{go_on + bf16 + toy + encoders!r}) == [0, 0]
"""
    )
    words = ["accelerate", "launch", "--config_file", str(LAUNCH / "fsdp2.yaml")]
    done = subprocess.run(
        [*words, "--num_processes", "1", str(script)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([configs["one"], *SETTINGS]) == main([configs["undisturbed"], *SETTINGS]) == 0
    torch.set_num_threads(threads)
    return folder


def numbers(run: Path, name: str) -> list[float]:
    return [row[name] for row in metrics_of(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The last ones, but the keys' biases: attention does not depend on them."""
    final = final_weights(run)
    for name in [name for name in final if name.endswith("qkv.bias")]:
        query, _, value = final[name].chunk(3)
        final[name] = torch.cat([query, value])
    return final


@pytest.mark.parametrize("name", ["sharded", "one", pytest.param("ddp", marks=pytest.mark.fault)])
def test_what_was_killed_when_sharded_goes_on_as_any_kind(folder, name):
    """Resuming at step 4 yields the losses, gradients and weights of an undisturbed run."""
    run, undisturbed = folder / name / "run", folder / "undisturbed" / "run"
    assert numbers(run, "step") == list(range(1, STEPS + 1))
    for column in ("loss", "grad_norm"):
        assert numbers(run, column) == pytest.approx(numbers(undisturbed, column), abs=1e-5)
    found, expected = weights(run), weights(undisturbed)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-5)


def check_equal(sharded, ddp, columns=("loss", "grad_norm")):
    """Equal numbers of both runs in `columns`, and equal weights at their ends; these weights."""
    for column in columns:
        assert numbers(sharded, column) == pytest.approx(numbers(ddp, column), abs=1e-6)
    ours, theirs = final_weights(sharded), final_weights(ddp)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-6)
    return theirs


def test_sharded_equals_ddp(folder):
    check_equal(folder / "sharded" / "run", folder / "ddp" / "run")


def test_the_killed_run_had_saved_once(folder):
    saved = [path.name for path in (folder / "killed" / "run" / "checkpoints").glob("step-*")]
    assert saved == [f"step-{CHECKPOINT:09d}"]
    assert numbers(folder / "killed" / "run", "step")[-1] < KILLED_AFTER + 1


def test_bf16_with_accumulation_is_ddps_arithmetic(folder):
    """Not accelerate's, which gives a loss of eight bits."""
    sharded, ddp = folder / "bf16_sharded" / "run", folder / "bf16_ddp" / "run"
    assert len(numbers(sharded, "loss")) == 7
    for column in ("loss", "r2", "grad_norm"):
        assert numbers(sharded, column) == pytest.approx(numbers(ddp, column), abs=1e-6)
    assert any(loss != torch.tensor(loss).bfloat16().item() for loss in numbers(sharded, "loss"))


def test_an_objective_that_the_package_does_not_know_is_sharded_as_well(folder):
    """Its buffers, which are not sharded, follow from all samples; its panels are drawn."""
    sharded, ddp = folder / "toy_sharded" / "run", folder / "toy_ddp" / "run"
    columns = ("loss_error", "loss_kl", "nats", "usage", "grad_norm")
    found = check_equal(sharded, ddp, columns)
    assert min(numbers(ddp, "grad_norm")) > 0.05  # all of them are clipped
    assert found.keys() > {"center", "first", "average.decoder.weight"}
    assert [path.name for path in sorted((sharded / "panels").iterdir())] == [
        f"step-{step:09d}.png" for step in (5, 10)
    ]


@pytest.mark.parametrize("name", ENCODERS)
def test_other_encoders_are_sharded_by_blocks(folder, name):
    check_equal(folder / f"{name}_sharded" / "run", folder / f"{name}_ddp" / "run")
    modules = json.loads((folder / "record.json").read_text())["modules"]
    blocks = [kind for _, kind in ENCODERS.values()]
    for kind in blocks:
        assert modules.count(kind) == 2 * blocks.count(kind)  # two blocks each


def test_the_panels_are_those_of_ddp(folder):
    names = [path.name for path in sorted((folder / "sharded" / "run" / "panels").iterdir())]
    assert names == [f"step-{step:09d}.png" for step in (5, 10, STEPS)]
    for name in names:
        one, other = (
            np.asarray(Image.open(folder / kind / "run" / "panels" / name), dtype=int)
            for kind in ("sharded", "ddp")
        )
        assert one.std() > 10 and np.abs(one - other).max() <= 1


def test_the_launchers_file_is_heeded_and_timeouts_reach_both_groups(folder):
    recorded = json.loads((folder / "record.json").read_text())
    assert recorded["reshard_after_forward"] is True
    blocks = ["Block", "EvaBlock", "EvaBlockPostNorm", "HieraBlock"]
    assert recorded["wrapped"] == [*blocks, "Decoder", "Fusion"]
    assert recorded["timeouts"] == [7 * 60, 7 * 60]


def test_fsdp_1_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match=r"asks for FSDP 1: use fsdp_version: 2 \(launch/fsdp2"):
        build_accelerator(TrainConfig())
    assert os.environ["FSDP_VERSION"] == "1"
