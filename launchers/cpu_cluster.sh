#!/usr/bin/env bash
# A CPU cluster with SLURM. From a login node, in the repository, with the environment active:
#   launchers/cpu_cluster.sh experiment=descent_dims
#   PARTITION=short MINUTES=120 launchers/cpu_cluster.sh experiment=calibration dim=8,16,32,64
# Your defaults of sbatch (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, ...) apply unless you set a value here.
# This process (the driver) only submits jobs and follows them. You may kill it; repeat the command to follow again.
set -euo pipefail
settings=("hydra.launcher.cpus=${CPUS:-1}")
[[ -z ${MINUTES-} ]] || settings+=("hydra.launcher.time=$MINUTES")
[[ -z ${PARTITION-} ]] || settings+=("hydra.launcher.partition=$PARTITION")
[[ -z ${ACCOUNT-} ]] || settings+=("hydra.launcher.account=$ACCOUNT")
exec python -m sa.run -m "$@" hydra/launcher=slurm "${settings[@]}"
