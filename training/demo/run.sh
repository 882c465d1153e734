#!/bin/sh
# The demonstration, as one would type it. Training, fitting and evaluation go on where they stopped,
# or say that their work is done already; the other steps are short and are done again.
set -eu
PYTHON=${PYTHON:-python}
PRN_GUARD=${PRN_GUARD:-prn-guard}
OUT=${OUT:-runs/demo}
SEED=${SEED:-0}
WEIGHTS=$OUT/target/lenet.safetensors

step() { printf '\n%s\n' "$*"; }

step "1/6 A classifier in service: LeNet on Fashion-MNIST"
"$PYTHON" -m training demo-target --out "$WEIGHTS" --seed "$SEED"

step "2/6 Fit the guard: craft perturbations, train rectifier and detector"
"$PYTHON" -m training fit --target training/demo/lenet.py:lenet --weights "$WEIGHTS" \
  --images fashion-mnist --test-images fashion-mnist --epsilon 0.15 --norm linf \
  --rounds 12 --seed "$SEED" --out "$OUT/guard"

step "3/6 Export one graph"
"$PYTHON" -m export guard "$OUT/guard" --out "$OUT/guarded"

step "4/6 Evaluate on held-out perturbations and under an attacker who knows the guard"
"$PYTHON" -m training evaluate "$OUT/guard" --images fashion-mnist --seed "$SEED" \
  --out "$OUT/evaluation"

step "5/6 Run the graph without torch, on pictures as a client would send them"
"$PRN_GUARD" inspect "$OUT/guarded"
"$PRN_GUARD" predict "$OUT/guarded" "$OUT"/evaluation/pictures/*.png

step "6/6 Report"
"$PYTHON" -m training report "$OUT/guard" --evaluation "$OUT/evaluation" --out "$OUT/report.html"
