#!/usr/bin/env bash
# The recipe of models/specprune-tabletop: demonstrations, then training from coarse to fine. Every
# step continues where an earlier run stopped. `make train` calls this.
#   OUT        folder for demonstrations, training states and the checkpoint   (out/tabletop)
#   DEVICE     cpu or cuda                                                     (cpu)
#   PROCESSES  processes that collect, and on a CPU train                      (2)
#   LOW, DEEP, FULL, PRUNED   minutes of the four stages   (60, 40, 240, 90; a tenth on a GPU)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
OUT=${OUT:-out/tabletop}
DEVICE=${DEVICE:-cpu}
PROCESSES=${PROCESSES:-2}
LOW=${LOW:-60} DEEP=${DEEP:-40} FULL=${FULL:-240} PRUNED=${PRUNED:-90}
specprune=$VENV/bin/specprune
export OMP_NUM_THREADS=1 LP_NUM_THREADS=1

say() { echo "== $*"; }

# MuJoCo is not needed where the demonstrations are there already.
if [ ! -f "$OUT/collected" ]; then
    say "Demonstrations"
    "$specprune" collect --suite tabletop --episodes 500 --workers "$PROCESSES" --out "$OUT/demos"
    "$specprune" collect --suite tabletop_hard --episodes 1600 --first-seed 1200000 \
        --workers "$PROCESSES" --out "$OUT/demos_hard"
    touch "$OUT/collected"
fi

common=(--data "$OUT/demos" "$OUT/demos_hard" --bf16 --optimiser muon --device "$DEVICE"
    --samples 100000000 --batch 32)
if [ "$DEVICE" = cpu ]; then common+=(--processes "$PROCESSES"); fi

say "112 px, 4 decoder layers, $LOW minutes"
"$specprune" train "${common[@]}" --image-size 112 --size layers=4 --learning-rate 2e-3 \
    --vision-share 0.06 --minutes "$LOW" --out "$OUT/low"
say "112 px, 8 decoder layers, $DEEP minutes"
"$specprune" train "${common[@]}" --image-size 112 --learning-rate 2e-3 --vision-share 0 \
    --minutes "$DEEP" --init "$OUT/low/checkpoint" --out "$OUT/deep"
say "224 px, 8 decoder layers, $FULL minutes"
"$specprune" train "${common[@]}" --learning-rate 1.5e-3 --vision-share 0.05 \
    --minutes "$FULL" --init "$OUT/deep/checkpoint" --out "$OUT/full"
say "224 px, 8 decoder layers, three batches in four without some patches, $PRUNED minutes"
"$specprune" train "${common[@]}" --learning-rate 1.2e-3 --vision-share 0 --drop-share 0.75 \
    --grounding 0.3 --minutes "$PRUNED" --init "$OUT/full/checkpoint" --out "$OUT/pruned"
say "The checkpoint is $OUT/pruned/checkpoint"
