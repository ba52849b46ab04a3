#!/bin/sh
# Measures what docs/performance.md lacks a GPU for, on the GPU at hand, in one command:
#     sh tools/benchmark/gpu.sh OUT [SAMRS]
# Tables, their json and a trace of each model go to OUT. Without the folder of SAMRS, images of
# 1024 pixels are made up.
set -eu
out=$(realpath -m "$1")
data=${2:+$(realpath "$2")}
cd "$(dirname "$0")/../.."
mkdir -p "$out"
if [ -z "$data" ]; then
    data=$out/samrs
    python tools/data/make_synthetic.py "$data" --image-size 1024 --num-train 100 --num-valid 0
fi
python tools/benchmark/ops.py --device cuda --json "$out/ops.json" | tee "$out/ops.txt"
memory=$(python -c 'import torch; print(int(torch.cuda.get_device_properties(0).total_memory / 1e9))')
for model in vit_b_rvsa vit_l_rvsa internimage_xl; do
    python tools/benchmark/train.py --model $model --device cuda --images 4 --loader "$data" \
        --memory "$memory" --profile "$out/$model.trace.json" --json "$out/$model.json" \
        | tee "$out/$model.txt"
done
