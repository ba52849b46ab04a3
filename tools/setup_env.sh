# Sourced by quickstart.sh and run_tests.sh, from the root of the repository: sets PYTHON to an
# interpreter in whose environment mtp is installed. That is the active one where it has torch,
# otherwise .venv, which is made on the first call. Nothing is installed again until
# pyproject.toml or requirements/lock.txt changes.

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

has_torch() {
    "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'
}

find_python() {
    local name
    for name in python python3 python3.13 python3.12 python3.11 python3.10; do
        if supported "$name"; then
            echo "$name"
            return
        fi
    done
    echo 'mtp needs Python 3.10 to 3.13, and there is none on the PATH' \
        "(python3 is $(python3 --version 2>&1 || true))." >&2
    echo 'Install one, or activate an environment that has one, and run this again.' >&2
    return 1
}

if supported python && has_torch python; then
    PYTHON=$(command -v python)
    # This environment's torch stays as it is.
    constraints=$(grep -v -E '^(torch|torchvision|triton|cuda-|nvidia-)' requirements/lock.txt)
else
    if [[ ! -x .venv/bin/pip ]]; then
        base=$(find_python)
        echo "Making .venv with $("$base" --version)"
        "$base" -m venv .venv
    fi
    PYTHON=$PWD/.venv/bin/python
    constraints=$(<requirements/lock.txt)
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
    "$PYTHON" -m pip install --constraint <(echo "$constraints") --editable '.[test]'
    echo "$wanted" >"$stamp"
fi
