#!/bin/sh
# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
#
# Trains every contestant, then compares them; what was stopped goes on when it is run again.
#
#   experiments/run.sh CORPUS [OUT]      CORPUS: a folder that `halo corpus` wrote
#
# Some hours on one core. HALO: the command, if it is not on the path.
set -eu

corpus=$1
out=${2:-experiments/out}
halo=${HALO:-halo}
export OMP_NUM_THREADS=1

train() { # config, name, further options
  config=$1 name=$2
  shift 2
  for file in "$corpus"/held/*.jsonl; do set -- "$@" --held-out "$file"; done
  "$halo" train --config "experiments/$config.toml" --data-dir "$corpus/train" \
    --cache "$out/tokens" --output-dir "$out/$name" "$@"
}

compare() { # question, names of models
  question=$1
  shift
  for name in "$@"; do
    shift
    set -- "$@" "$out/$name"
  done
  "$halo" compare "$@" --data "$corpus/held" --blocks 64 --draws 1 --infills 4 --samples 2 --length 512 \
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
