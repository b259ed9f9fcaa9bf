#!/usr/bin/env bash
# Is pretraining worth it?  CIFAR-10: pretrain, then fine-tune on 10,000 labels beside the same network
# from scratch on these labels with the computation of both stages together; few-shot curves.
# Usage: launch/cifar10.sh DATA OUT [cpu|gpu]   DATA: train-*.tar and test-*.tar of 5,000 images each.
# cpu: a small encoder, about two and a half hours of one core; gpu: the published recipe of 2,000
# epochs, and from scratch for as many epochs as the fine-tuning, too.
# The same command goes on where it was stopped.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }
data=$(realpath "$1") out=$(realpath -m "$2") kind=${3:-cpu}
source "$(dirname "$0")/setup.sh"
set_up ""

step() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

pretrained=("data.train=$data/train-*.tar" "data.val=$data/test-*.tar" log.trackers=[])
labelled="$data/train-{000000..000001}.tar" test=("$data/test-000000.tar" "$data/test-000001.tar")
tuned=("data.train=$labelled" "data.val=$data/test-*.tar" log.trackers=[] log.health_every=10)
case $kind in
cpu)
    small=(model.patch_size=4 'model.encoder_kwargs={embed_dim: 128, depth: 6, num_heads: 4}')
    pretrained+=("${small[@]}" model.decoder_embed_dim=64 model.decoder_depth=2
        model.decoder_num_heads=4 optim.lr=1.5e-3 optim.warmup_epochs=2 train.epochs=20
        train.batch_size=256 data.flip=true data.workers=0)
    tuned+=("${small[@]}" optim.lr=1e-3 optim.warmup_epochs=2 data.flip=true data.workers=0)
    epochs=16 long=50 others=(scratch-long) # from scratch for 50 epochs computes as much as both stages
    ;;
gpu)
    pretrained+=(train.precision=bf16 train.compile=true)
    tuned+=(train.precision=bf16 train.compile=true)
    epochs=100 long=2300 others=(scratch scratch-long)
    ;;
*)
    echo "launch/cifar10.sh: $kind: write cpu or gpu" >&2
    exit 2
    ;;
esac

# tune NAME EPOCHS [SETTING …]: one classifier, into $out/NAME.
tune() {
    local name=$1
    step mae finetune configs/vit_tiny_patch2_cifar10_finetune.yaml "${tuned[@]}" \
        "output=$out/$name" "train.epochs=$2" "${@:3}"
}

step mae pretrain configs/vit_tiny_patch2_cifar10.yaml "${pretrained[@]}" "output=$out/pretrained"
tune finetuned $epochs "init.from=$out/pretrained"
for other in "${others[@]}"; do
    [ "$other" = scratch ] && duration=$epochs || duration=$long
    tune "$other" "$duration" init.from=none
    step mae evaluate "$out/finetuned" --test "${test[@]}" --beside "$out/$other" \
        --out "$out/finetuned-beside-$other.json"
done
step mae fewshot "$out/pretrained" --train "$labelled" --test "${test[@]}" \
    --percent 1 2 5 10 20 50 --shots 1 5 10 20 --splits 5 --baselines
