#!/usr/bin/env bash
# A search by Optuna's TPE sampler instead of a grid. First type: pip install -e '.[optuna]'
#   launchers/optuna.sh estimator=nes 'estimator.sigma=tag(log,interval(0.001,1))'
#   launchers/optuna.sh estimator=cdg 'estimator.epsilon=tag(log,interval(0.001,1))' metric=descent/best_heldout
#   TRIALS=50 NAME=lr launchers/optuna.sh experiment=digits_ste 'optimizer.lr=tag(log,interval(0.0001,0.1))'
# It maximises the result metric=KEY; set DIRECTION=minimize for a loss. The sampler has a seed and finished runs are
# reused, so repeating the command resumes the search, with more TRIALS also beyond its end.
set -euo pipefail
folder="${SA_ROOT:-.}/sweeps/${NAME:-optuna}"
python -m sa.run -m "$@" hydra/sweeper=optuna "hydra.sweep.dir=$folder" \
  "hydra.sweeper.n_trials=${TRIALS:-20}" "hydra.sweeper.direction=${DIRECTION:-maximize}" \
  hydra.sweeper.n_jobs=1 hydra.sweeper.sampler.seed=0
cat "$folder/optimization_results.yaml"
