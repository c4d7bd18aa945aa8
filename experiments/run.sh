#!/bin/sh
# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
#
# Trains every contestant, then compares them; what was stopped goes on when it is run again.
#
#   experiments/run.sh CORPUS [OUT]      CORPUS: a folder that `halo corpus` wrote
#
# An hour or so on one core. HALO: the command, if it is not on the path.
set -eu

corpus=$1
out=${2:-experiments/out}
halo=${HALO:-halo}
export OMP_NUM_THREADS=1

train() { # config, name, further options
  config=$1 name=$2
  shift 2
  held=$(for file in "$corpus"/held/*.jsonl; do printf -- '--held-out %s ' "$file"; done)
  # shellcheck disable=SC2086
  "$halo" train --config "experiments/$config.toml" --data-dir "$corpus/train" $held \
    --cache "$out/tokens" --output-dir "$out/$name" "$@"
}

compare() { # question, names of models
  question=$1 models=
  shift
  for name in "$@"; do models="$models $out/$name"; done
  # shellcheck disable=SC2086
  "$halo" compare $models --data "$corpus/held" --blocks 64 --draws 1 --infills 4 --samples 4 --length 64 \
    --rounds 5 --report "$out/reports/$question"
}

for name in transformer eco_hybrid hierarchical looped conv_only slots_only slots_8 slots_32; do
  train "$name" "$name"
done
train transformer transformer_seed1 --seed 1
train eco_hybrid eco_hybrid_seed1 --seed 1

compare architectures transformer eco_hybrid
compare architectures-seed-1 transformer_seed1 eco_hybrid_seed1
compare slots eco_hybrid slots_8 slots_32
compare ablations eco_hybrid conv_only slots_only
compare hierarchical looped hierarchical
"$halo" bench reveal "$out/eco_hybrid" --data "$corpus/held" --report "$out/reports/reveal"
"$halo" bench halting "$out/hierarchical" --data "$corpus/held" --report "$out/reports/halting"
