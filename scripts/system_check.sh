#!/usr/bin/env bash
# Look for what pip cannot bring: `system_check.sh build` for the compiler and Python's own parts,
# `system_check.sh render` for off-screen OpenGL. What is missing is installed with apt-get where
# that needs no password, otherwise the command is printed and the script fails.
set -euo pipefail

PYTHON=${PYTHON:-python3}
missing=()

fail() { echo "specprune_ros: $*" >&2; exit 1; }

install_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    local command="apt-get install -y --no-install-recommends ${missing[*]}"
    command -v apt-get >/dev/null ||
        fail "missing: ${missing[*]} (names of Debian packages; install them with your system's package manager)"
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || fail "missing system packages. Run: sudo apt-get update && sudo $command"
        sudo=(sudo -n)
    fi
    echo "Installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -q </dev/null
    "${sudo[@]}" $command </dev/null || fail "could not install: ${missing[*]}"
    missing=()
}

check_build() {
    command -v "$PYTHON" >/dev/null || missing+=(python3)
    command -v make >/dev/null || missing+=(make)
    command -v cc >/dev/null || missing+=(gcc)
    command -v c++ >/dev/null || missing+=(g++)
    # setup.py needs the headers and libc's; a Python without ensurepip cannot make a venv.
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    "$PYTHON" - 2>/dev/null <<'PY' || missing+=(python3-dev)
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
PY
    install_missing
    "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' ||
        fail "$("$PYTHON" --version) is not supported. Name a Python 3.10, 3.11 or 3.12: make demo PYTHON=python3.11"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$PYTHON cannot make virtual environments (no ensurepip); name another: make demo PYTHON=/usr/bin/python3"
}

can_render() {
    "$PYTHON" - <<'PY'
import ctypes, glob, sys

def loads(name):
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True

egl_drivers = [*glob.glob("/usr/share/glvnd/egl_vendor.d/*.json"),
               *glob.glob("/etc/glvnd/egl_vendor.d/*.json")]
egl = loads("libEGL.so.1") and bool(egl_drivers)
# PyOpenGL looks OpenGL itself up beside either of them.
opengl = loads("libOpenGL.so.0") or loads("libGL.so.1")
sys.exit(not (opengl and (egl or loads("libOSMesa.so.8"))))
PY
}

check_render() {
    can_render && return
    missing+=(libegl1 libgl1 libgl1-mesa-dri)
    install_missing
    can_render || fail "off-screen OpenGL still does not load; try: apt-get install libosmesa6"
}

case "${1:-}" in
    build) check_build ;;
    render) check_render ;;
    *) fail "usage: system_check.sh build|render" ;;
esac
