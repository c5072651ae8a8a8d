#!/usr/bin/env bash
# Everything that needs a CUDA device, in one go: `gpu_check.sh test`, `bench` or `all`.
#   PYTHON   interpreter whose torch sees the device   (python3, otherwise that of .venv)
#   WHEELS   folder with wheels of what it lacks: they are unpacked beside it, not installed (.whl)
#   OUT      folder for logs, JSON and pictures        (out/gpu)
#   MODEL    shape or checkpoint that is measured      (7b)
# No ROS and no simulator is needed: Python 3.10 or newer, a CUDA torch with Triton, a C compiler,
# OpenCV, and in WHEELS or installed: transformers, simplejpeg, safetensors, tokenizers, rich,
# matplotlib, pytest, pytest-timeout, hypothesis.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT=${OUT:-out/gpu}
WHEELS=${WHEELS:-.whl}
MODEL=${MODEL:-7b}
what=${1:-all}

fail() { echo "specprune_ros: $*" >&2; exit 1; }

sees_device() { "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; }

if [ -z "${PYTHON:-}" ]; then
    for PYTHON in python3 "${VENV:-.venv}/bin/python"; do
        if sees_device "$PYTHON"; then break; fi
    done
fi
sees_device "$PYTHON" || fail "the torch of '$PYTHON' sees no CUDA device: name another interpreter" \
    "(PYTHON=...), or install a CUDA build of torch and its driver"

mkdir -p "$OUT"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if compgen -G "$WHEELS/*.whl" >/dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$PWD:$site"
fi

failed=0
# $1: name of the step and of its log, $2: seconds it may take, then the command.
step() {
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout -k 10 "$limit" "$@" 2>&1 | tee "$OUT/$name.log" || { echo "== $name FAILED"; failed=1; }
}

run_tests() {
    step test-gpu 240 "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider --durations=5 \
        test/vla test/pruning test/runtime test/bench
}

run_bench() {
    local name
    name=$(basename "$MODEL")
    step bench-gpu 300 "$PYTHON" -m specprune_ros.cli bench --device cuda --model "$MODEL" \
        --json "$OUT/bench-$name.json" --plot "$OUT"
}

case "$what" in
    test) run_tests ;;
    bench) run_bench ;;
    all) run_tests; run_bench ;;
    *) fail "unknown step '$what': test, bench or all" ;;
esac
exit $failed
