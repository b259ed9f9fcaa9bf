#!/usr/bin/env bash
# From a fresh machine to a pretrained, exported and probed encoder, in about four minutes on two
# CPU cores: scikit-learn's handwritten digits, two processes.  Needs git and Python 3.11 or newer.
# Everything is written to demo/, which is deleted first.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
set_up ""
export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 # the same on every machine
SECONDS=0

step() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

rm -rf demo
step python launch/digits.py demo/images
step mae pack demo/images/train demo/shards/train --shard-size 200
step mae pack demo/images/test demo/shards/test --shard-size 200
step accelerate launch --config_file launch/cpu.yaml -m mae.pretrain configs/demo_digits.yaml
step mae export demo/run demo/encoder
step mae probe demo/run --train 'demo/shards/train/*.tar' --test 'demo/shards/test/*.tar' \
    --per-class 10 --baselines
step mae reconstruct demo/run 'demo/shards/test/*.tar' --out demo/reconstruction.png
python launch/demo_summary.py demo "$SECONDS"
