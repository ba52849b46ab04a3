#!/usr/bin/env bash
# Pretrain a tiny multi-task model on synthetic data, evaluate and draw it: about ten minutes on
# two CPU cores. Run it again after an interruption: finished steps are not repeated. To start
# anew remove work_dirs/demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_env.sh

config=configs/pretrain/vit_tiny_rvsa_demo.py
work_dir=work_dirs/demo

step() {
    printf '\n== %s\n' "$*"
}

step 'Data: data/synthetic'
if [[ ! -d data/synthetic ]]; then
    "$PYTHON" tools/data/make_synthetic.py data/synthetic
fi

step "Training: $config"
if [[ ! -f $work_dir/encoder.pth ]]; then
    "$PYTHON" tools/train.py "$config" --work-dir "$work_dir" --resume auto
fi
trained=$work_dir/$(basename "$(<"$work_dir/last_checkpoint")")

step 'Evaluation: untrained, then trained'
if [[ ! $work_dir/untrained/metrics.json -nt $work_dir/encoder.pth ]]; then
    "$PYTHON" tools/test.py "$config" untrained --work-dir "$work_dir/untrained"
fi
if [[ ! $work_dir/trained/metrics.json -nt $work_dir/encoder.pth ]]; then
    "$PYTHON" tools/test.py "$config" "$trained" --work-dir "$work_dir/trained" \
        --show-dir "$work_dir/pictures" --cfg-options default_hooks.visualization.max_images=4
fi
"$PYTHON" tools/plot_curves.py "$work_dir"

step 'Result: untrained -> trained'
"$PYTHON" tools/compare_metrics.py "$work_dir"/{untrained,trained}/metrics.json
echo
echo "Encoder for finetuning: $work_dir/encoder.pth"
echo 'Pictures:'
find "$work_dir" -name '*.png' | sort | sed 's/^/  /'
