#!/usr/bin/env bash
# A search instead of a grid, by Optuna's TPE sampler; first: pip install -e '.[optuna]'
#   launchers/optuna.sh estimator=nes 'estimator.sigma=tag(log,interval(0.001,1))'
#   launchers/optuna.sh estimator=cdg 'estimator.epsilon=tag(log,interval(0.001,1))' metric=descent/best_heldout
#   TRIALS=50 NAME=lr launchers/optuna.sh experiment=digits_ste 'optimizer.lr=tag(log,interval(0.0001,0.1))'
# Maximises metric=KEY of the results; DIRECTION=minimize for a loss. The sampler has a seed and finished runs are
# found by their settings: repeat the command to resume it, or with more TRIALS to go on.
set -euo pipefail
folder="${SA_ROOT:-.}/sweeps/${NAME:-optuna}"
python -m sa.run -m "$@" hydra/sweeper=optuna "hydra.sweep.dir=$folder" \
  "hydra.sweeper.n_trials=${TRIALS:-20}" "hydra.sweeper.direction=${DIRECTION:-maximize}" \
  hydra.sweeper.n_jobs=1 hydra.sweeper.sampler.seed=0
cat "$folder/optimization_results.yaml"
