#!/usr/bin/env bash
# Speed of the training step on this machine's GPU, compared with other implementations and fed from
# JPEG shards: one call of under nine minutes on an H200.
#   launch/gpu_bench.sh          writes gpu_bench.md, gpu_bench.json and plots to $OUT (gpu-bench/)
#   launch/gpu_bench.sh --toy    the same at toy size on a CPU, to try it out
# $BENCH_SECONDS (530): time limit; parts that do not finish in time are reported as not measured.
# $BENCH_PARTS: parts to measure, separated by spaces (all).
# $PYTHON (python3): interpreter; .venv is set up and used where it lacks a package.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${OUT:-gpu-bench}")
DEADLINE=$((SECONDS + ${BENCH_SECONDS:-530}))
ALL="step joint peers decode joint-crop joint-decode profile attention"
PARTS=${BENCH_PARTS:-$ALL}
wanted() {
    [[ " $PARTS " == *" $1 "* ]]
}
for name in $PARTS; do
    if [[ " $ALL " != *" $name "* ]]; then
        echo "gpu_bench.sh: BENCH_PARTS: no part $name; there are $ALL" >&2
        exit 2
    fi
done
mkdir -p "$OUT"
if ! ${PYTHON:=python3} -c 'import mae.cli, accelerate, simplejpeg, timm, transformers, webdataset' \
    2>/dev/null; then
    source launch/setup.sh
    set_up "[test]"
    PYTHON=python
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "${1:-}" = --toy ]; then
    device=cpu common=(--device cpu --quick --img-size 32)
    models=(vit_tiny_patch16_224) sizes=(2 4) modes=(eager) depths=(1)
    mode=eager peers_batch=2 joint_batch=4 photographs=16
    export OMP_NUM_THREADS=1
else
    device=cuda common=(--rounds 4 --seconds 0.8 --at-once 8)
    models=(vit_large_patch16_224 vit_base_patch16_224 vit_small_patch16_224)
    sizes=(64 128 256) modes=(eager compile) depths=(8)
    mode=compile peers_batch=128 joint_batch=256 photographs=4096
fi

# part NAME MODULE ARGUMENTS…: one measurement; where it fails or runs out of time, the others go on.
part() {
    local name=$1 left=$((DEADLINE - SECONDS))
    shift
    echo "== $name ($SECONDS s)"
    if [ $left -gt 0 ] && timeout $left "$PYTHON" -m "$@" "${common[@]}" \
        --out "$work/$name.json" 2>"$work/$name.log"; then
        return
    fi
    printf 'Not measured: %s\n' "$(tail -n 1 "$work/$name.log" 2>/dev/null || true)" |
        tee "$work/$name.md"
}

make_shards() {
    "$PYTHON" launch/photographs.py "$work/photographs" $photographs &&
        "$PYTHON" -m mae pack "$work/photographs" "$work/shards" --shard-size 512
}
if [[ $PARTS == *joint* || $PARTS == *decode* ]]; then
    make_shards >"$work/shards.log" 2>&1 & # while the first models are compiled
    shards=$!
fi

step() {
    wanted step || return 0
    part "step-$1" mae bench step --models "$1" --batch-sizes "${sizes[@]}" --modes "${modes[@]}" \
        --decoder-depths "${depths[@]}" --plot "$OUT/step-$1.png"
}
peers() {
    wanted peers || return 0
    part "peers-$1" benchmarks.peers --models "$1" --batch-sizes $peers_batch --modes "${modes[@]}" \
        --decoder-depth "${depths[0]}"
}
for model in "${models[@]::2}"; do step "$model"; done
wait ${shards:-} || cat "$work/shards.log"
joint() {
    wanted "joint${1:+-$1}" || return 0
    part "joint${1:+-$1}" mae bench joint "$work/shards/*.tar" --model "${models[0]}" \
        --batch-size $joint_batch --decoder-depth "${depths[0]}" --mode $mode ${1:+--on-device "$1"}
}
joint ""
for model in "${models[@]::2}"; do peers "$model"; done
one() {
    wanted "$1" || return 0
    part "$1" mae bench "$1" --model "${models[0]}" --batch-size $peers_batch --mode $mode \
        --decoder-depth "${depths[0]}"
}
if wanted decode; then
    timeout $((DEADLINE > SECONDS ? DEADLINE - SECONDS : 1)) "$PYTHON" -m mae bench decode \
        "$work/shards/*.tar" --device "$device" --out "$work/decode.json" ||
        echo "not measured: decoding"
fi
for on_device in crop decode; do joint "$on_device"; done
one profile
one attention
for model in "${models[@]:2}"; do step "$model"; done

# All tables in one Markdown file and all results in one JSON file, in the order of measurement.
"$PYTHON" - "$work" "$OUT" <<'PROGRAM'
import json
import sys
from pathlib import Path

work, out = map(Path, sys.argv[1:])
tables = sorted(work.glob("*.md"), key=lambda path: path.stat().st_mtime)
sections = [f"## {path.stem}\n\n{path.read_text()}" for path in tables]
(out / "gpu_bench.md").write_text("# launch/gpu_bench.sh\n\n" + "\n".join(sections))
results = {path.stem: json.loads(path.read_text()) for path in sorted(work.glob("*.json"))}
(out / "gpu_bench.json").write_text(json.dumps(results, indent=1) + "\n")
PROGRAM
echo "$SECONDS s; $OUT/gpu_bench.md"
