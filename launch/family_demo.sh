#!/usr/bin/env bash
# Autoencoders on scikit-learn's handwritten digits, in about three minutes on two CPU cores:
# compression against PCA, denoising, codes with and without k-means start and revival, samples.
# Needs git and Python 3.11 or newer.  Everything is written to demo-family/, which is deleted first.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
set_up ""
export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 # the same on every machine
SECONDS=0
out=demo-family

step() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

# train NAME RECIPE [SETTING …]: one run on the digits, into $out/NAME.
train() {
    local name=$1 recipe=$2
    shift 2
    step mae pretrain "configs/autoencoders/$recipe.yaml" "output=$out/$name" \
        "data.train=$out/shards/train/*.tar" "data.val=$out/shards/test/*.tar" \
        data.img_size=16 data.in_chans=1 'data.mean=[0.305]' 'data.std=[0.376]' data.flip=false \
        data.workers=0 train.batch_size=32 train.checkpoint_every=1000 \
        log.every=200 log.panel_every=0 log.health_every=100 log.trackers=[] "$@"
}

rm -rf "$out"
step python launch/digits.py "$out/images"
step mae pack "$out/images/train" "$out/shards/train" --shard-size 200
step mae pack "$out/images/test" "$out/shards/test" --shard-size 200
train ae ae model.latent_dim=16 train.epochs=20
train dae dae model.strength=0.196 train.epochs=15
train codes vqvae model.codebook_size=128 train.epochs=15
train codes-plain vqvae model.codebook_size=128 train.epochs=15 \
    model.kmeans_start=false model.revive_below=0
train prior prior model.tokenizer="$out/codes" model.dim=128 model.depth=4 train.epochs=6
python launch/family_summary.py "$out" "$SECONDS"
