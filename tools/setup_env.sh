# Sourced by quickstart.sh and run_tests.sh, from the root of the repository: sets PYTHON to an
# interpreter in whose environment mtp is installed. That is the active one (or that of the PYTHON
# given) where it has torch, otherwise .venv, which is made on the first call. Nothing is installed
# again until pyproject.toml or tools/requirements/lock.txt changes.

# Threads that wait sleep instead of spinning: on a busy machine training is ten times faster.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

has_torch() {
    "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'
}

find_python() {
    local name names=(python python3 python3.13 python3.12 python3.11 python3.10)
    if [[ -n ${PYTHON:-} ]]; then
        names=("$PYTHON")
    fi
    for name in "${names[@]}"; do
        if supported "$name"; then
            echo "$name"
            return
        fi
    done
    name=${PYTHON:-python3}
    echo "mtp needs Python 3.10 to 3.13, and found none among: ${names[*]}" \
        "($name is $("$name" --version 2>&1 || true))." >&2
    echo 'Install one, or give its path as PYTHON=..., and run this again.' >&2
    return 1
}

active=${PYTHON:-python}
if supported "$active" && has_torch "$active"; then
    PYTHON=$(command -v "$active")
    # This environment's torch stays as it is.
    constraints=$(grep -v -E '^(torch|torchvision|triton|cuda-|nvidia-)' tools/requirements/lock.txt)
else
    if [[ ! -x .venv/bin/pip ]]; then
        base=$(find_python)
        echo "Making .venv with $("$base" --version)"
        "$base" -m venv .venv
    fi
    PYTHON=$PWD/.venv/bin/python
    constraints=$(<tools/requirements/lock.txt)
    if ! supported "$PYTHON"; then
        echo "mtp needs Python 3.10 to 3.13, but .venv has $("$PYTHON" --version)." >&2
        echo 'Remove .venv and run this again.' >&2
        exit 1
    fi
fi

stamp=$("$PYTHON" -c 'import sys; print(sys.prefix)')/mtp-installed
wanted=$(echo "$PWD $constraints" | cat - pyproject.toml | cksum)
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    echo "Installing mtp and what it needs into $(dirname "$stamp")"
    "$PYTHON" -m pip install --constraint <(echo "$constraints") --editable '.[test,geo,sam,export]'
    # Dependencies bring both OpenCV packages, which unpack to one folder. opencv-python, the one
    # with windows, needs libGL; a bare server lacks it, so there the files of the other go on top.
    if ! "$PYTHON" -c 'import cv2' 2>/dev/null; then
        "$PYTHON" -m pip install --constraint <(echo "$constraints") \
            --force-reinstall --no-deps opencv-python-headless
    fi
    echo "$wanted" >"$stamp"
fi
