#!/usr/bin/env bash
# Run the tests, in an environment made on the first call. Arguments go to pytest, e.g. -k hooks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_env.sh
# One process per core, each with one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$PYTHON" -m pytest --numprocesses auto --maxprocesses 8 "$@"
