"""A plain PyTorch loop over mae.ShardStream; after any stop the same command goes on exactly.

python launch/shard_stream_loop.py 'shards/*.tar' run.pt --steps 1000
torchrun --nproc_per_node 4 launch/shard_stream_loop.py 'shards/*.tar' run.pt --steps 1000
"""

import argparse
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import mae

parser = argparse.ArgumentParser()
parser.add_argument("shards")
parser.add_argument("checkpoint", type=Path)
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--workers", type=int, default=2)
args = parser.parse_args()

if "RANK" in os.environ:  # started by torchrun
    torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
model(torch.zeros(1, 3, 32, 32))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
# batch_size counts the images of all processes; each gets its part of the same batches.
stream = mae.ShardStream(args.shards, batch_size=16, img_size=32, workers=args.workers)
step = 0
if args.checkpoint.exists():
    saved = torch.load(args.checkpoint, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    stream.load_state_dict(saved["stream"])
    step = saved["step"]

distributed = torch.distributed.is_initialized()
learner = nn.parallel.DistributedDataParallel(model) if distributed else model
batches = iter(stream)
while step < args.steps:
    batch = next(batches)
    loss = F.cross_entropy(learner(batch.images / 255), batch.labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    step += 1
    if stream.settings.rank == 0 and (step % 10 == 0 or step == args.steps):
        whole = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "stream": stream.state_dict(),  # the same on every rank
            "step": step,
        }
        part = args.checkpoint.with_suffix(".part")
        torch.save(whole, part)
        part.replace(args.checkpoint)  # whole or absent
        print(f"step {step}  epoch {stream.epoch:.2f}  loss {loss.item():.4f}", flush=True)
if distributed:
    torch.distributed.destroy_process_group()
