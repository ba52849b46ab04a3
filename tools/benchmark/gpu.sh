#!/bin/sh
# Run on a GPU, in one go: the smoke test, then every measurement of docs/benchmarks that needs a GPU.
# Results appear in OUT as they come, the most important ones first.
#     sh tools/benchmark/gpu.sh OUT [SAMRS]
# Without the folder of SAMRS, synthetic images of 1024 pixels are made. MTP_SMOKE_ONLY=1 ends after
# the smoke test, which takes some six minutes from a cold cache.
set -eu
out=$(realpath -m "$1")
data=${2:+$(realpath "$2")}
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"

# step NAME COMMAND...: run a command; report its failure and go on
step() {
    name=$1
    shift
    echo "== $name ($(date +%T))"
    "$@" >"$out/$name.txt" 2>&1 || echo "FAIL  $name: see $out/$name.txt"
    tail -n 20 "$out/$name.txt"
}

echo "== smoke ($(date +%T))"
python tools/benchmark/smoke.py "$out/smoke" || echo 'FAIL  smoke: see the lines above'
if [ "${MTP_SMOKE_ONLY:-}" = 1 ]; then
    exit
fi

first_step() {
    step "first_step_$1_$2" python tools/benchmark/first_step.py --model "$1" \
        --cache "$out/cache_$1" --json "$out/first_step_$1_$2.json"
}
memory=$(python -c 'import torch; print(int(torch.cuda.get_device_properties(0).total_memory / 1e9))')
train() {
    model=$1
    shift
    step "train_$model" python tools/benchmark/train.py --model "$model" --device cuda --images 4 \
        --memory "$memory" --graphs --profile "$out/$model.trace.json" --json "$out/$model.json" "$@"
}

first_step vit_b_rvsa cold
first_step vit_b_rvsa warm
step train_vit_b_rvsa_uncompiled python tools/benchmark/train.py --model vit_b_rvsa --device cuda \
    --images 4 --only-ours --compile off --json "$out/vit_b_rvsa_uncompiled.json"
train vit_b_rvsa
step operators python tools/benchmark/ops.py --device cuda --json "$out/ops.json"
train vit_l_rvsa
for model in vit_l_rvsa internimage_xl; do
    first_step $model cold
    first_step $model warm
done
train internimage_xl
if [ -z "$data" ]; then
    data=$out/samrs
    python tools/data/make_synthetic.py "$data" --image-size 1024 --num-train 100 --num-valid 0
fi
step loader python tools/benchmark/train.py --model vit_b_rvsa --device cuda --images 4 \
    --only-ours --loader "$data" --json "$out/loader.json"
