#!/usr/bin/env bash
# Record test/data/tabletop_bag anew: the first seconds of a simulated episode, JPEG pictures of
# 128 px, with the shipped untrained checkpoint. The actions it holds are those of this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bin=${VENV:-.venv}/bin
bag=test/data/tabletop_bag
export ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-99} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export OMP_NUM_THREADS=1 LP_NUM_THREADS=1

rm -rf "$bag"
"$bin/specprune" record --out "$bag" --seconds "${1:-3}" &
recorder=$!
sleep 3 # so that the recorder misses nothing
"$bin/python" -m specprune_ros --checkpoint specprune-tiny --ros-args \
    -p image_transport:=compressed -p render_size:=128 &
nodes=$!
trap 'kill -INT $nodes 2>/dev/null || true' EXIT
wait "$recorder"
