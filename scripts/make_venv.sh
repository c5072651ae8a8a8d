#!/usr/bin/env bash
# Make or refresh the virtual environment of the checkout; `make venv` calls this. It can be run
# again after a failure: what pip has installed stays.
#   VENV    folder of the environment            (.venv)
#   PYTHON  interpreter to make it with          (python3)
#   TORCH   pip arguments that install torch     (torch==2.13.0)
#   WHEELS  ROS distribution taken as wheels where no ROS is sourced: kilted or jazzy (kilted)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-torch==2.13.0}
WHEELS=${WHEELS:-kilted}

fail() { echo "specprune_ros: $*" >&2; exit 1; }
say() { echo "== $*"; }

case "$WHEELS" in
    kilted) extra=ros ;;
    jazzy) extra=ros-jazzy ;;
    *) fail "WHEELS=$WHEELS: choose kilted or jazzy" ;;
esac

# A sourced ROS is used as it is; its Python packages are seen through system site packages.
sourced=
IFS=: read -ra prefixes <<<"${AMENT_PREFIX_PATH:-}"
for prefix in "${prefixes[@]}"; do
    if [ -d "$prefix/share/rosidl_default_generators" ] && [ ! -e "$prefix/pyvenv.cfg" ]; then
        sourced=$prefix
    fi
done
if [ -z "$sourced" ] && [ -n "${ROS_DISTRO:-}" ]; then
    fail "ROS $ROS_DISTRO is sourced but has no message generators. Run: sudo apt-get install" \
        "ros-$ROS_DISTRO-ros-base ros-$ROS_DISTRO-rosidl-default-generators"
fi

kind="$WHEELS wheels"
venv_options=()
if [ -n "$sourced" ]; then
    kind="ROS ${ROS_DISTRO:-} in $sourced"
    venv_options=(--system-site-packages)
    "$PYTHON" -c 'import rclpy' 2>/dev/null ||
        fail "$(command -v "$PYTHON") cannot import rclpy of the sourced ROS; name the Python it" \
            "was built for: make demo PYTHON=/usr/bin/python3"
fi

if [ -f "$VENV/.kind" ] && [ "$(<"$VENV/.kind")" != "$kind" ]; then
    fail "$VENV was made for $(<"$VENV/.kind"), not for $kind. Remove it (make distclean) or use" \
        "another folder: make VENV=.venv-other ..."
fi
if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    say "Making $VENV ($kind)"
    "$PYTHON" -m venv --clear "${venv_options[@]}" "$VENV"
fi
echo "$kind" >"$VENV/.kind"
python=$VENV/bin/python
export PATH="$(cd "$VENV/bin" && pwd):$PATH"
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

constraints=()
if [ -n "$sourced" ]; then
    # ROS's compiled messages and cv_bridge work with the major version of NumPy they were built on.
    # With NumPy 1 (Humble, Jazzy) pip would search long for an OpenCV that still works with it.
    "$python" - >"$VENV/constraints.txt" <<'PY'
import numpy

major = int(numpy.__version__.split(".")[0])
print(f"numpy<{major + 1}")
if major < 2:
    print("opencv-python-headless<4.12")
PY
    if ! "$python" -c 'import pinocchio' 2>/dev/null && grep -q 'numpy<2' "$VENV/constraints.txt"; then
        fail "pinocchio is missing, and its wheels need NumPy 2, which this ROS does not work with." \
            "Run: sudo apt-get install ros-${ROS_DISTRO:-<distro>}-pinocchio"
    fi
    constraints=(-c "$VENV/constraints.txt")
fi

say "Installing $TORCH"
pip install -q "${constraints[@]}" $TORCH

say "Installing what compiles the messages"
if [ -n "$sourced" ]; then
    pip install -q "${constraints[@]}" "setuptools>=61" wheel
elif [ "$WHEELS" = jazzy ]; then
    pip install -q -r requirements/build-jazzy.txt
    extras=$extra,test
else
    "$python" - >"$VENV/build-requirements.txt" <<'PY'
try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["build-system"]["requires"]))
PY
    pip install -q -r "$VENV/build-requirements.txt"
    extras=$extra,test
fi

say "Installing specprune_ros and its dependencies"
if [ -n "$sourced" ]; then
    # apt's cv2 and pinocchio are not known to pip by the names of their wheels.
    "$python" setup.py -q egg_info --egg-base "$VENV"
    "$python" - "$VENV/specprune_ros.egg-info" >"$VENV/requirements.txt" <<'PY'
import sys
from importlib.metadata import Distribution
from importlib.util import find_spec

from pip._vendor.packaging.requirements import Requirement

of_ros = {"opencv-python-headless": "cv2", "pin": "pinocchio"}
for requirement in map(Requirement, Distribution.at(sys.argv[1]).requires):
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": "test"})
    if wanted and not (requirement.name in of_ros and find_spec(of_ros[requirement.name])):
        print(f"{requirement.name}{requirement.specifier}")
PY
    pip install -q "${constraints[@]}" -r "$VENV/requirements.txt"
    pip install -q --no-build-isolation --no-deps .
else
    pip install -q --no-build-isolation ".[$extras]"
fi

# The modules of the checkout come before the installed copy, whose compiled messages are found
# through the package's __path__. So an edit counts at once; only msg/, srv/ and setup.py need this
# script again.
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import os; print(f"import sys; sys.path.insert(0, {os.getcwd()!r})")' \
    >"$site/specprune_ros_checkout.pth"

"$python" -c 'from rclpy.serialization import serialize_message
from specprune_ros.msg import ActionChunk
from specprune_ros.srv import SetInstruction
serialize_message(ActionChunk())' || fail "the compiled messages do not work with $kind"
