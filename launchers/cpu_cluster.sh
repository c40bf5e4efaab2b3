#!/usr/bin/env bash
# A CPU cluster with SLURM. From a login node, in the repository, with the environment active:
#   launchers/cpu_cluster.sh experiment=descent_dims
#   PARTITION=short MINUTES=120 launchers/cpu_cluster.sh experiment=calibration dim=8,16,32,64
# Defaults of sbatch (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, ...) hold where nothing is said here.
# The driver only submits and follows: kill it when you like, repeat the command to follow again.
set -euo pipefail
settings=("hydra.launcher.cpus=${CPUS:-1}")
[[ -z ${MINUTES-} ]] || settings+=("hydra.launcher.time=$MINUTES")
[[ -z ${PARTITION-} ]] || settings+=("hydra.launcher.partition=$PARTITION")
[[ -z ${ACCOUNT-} ]] || settings+=("hydra.launcher.account=$ACCOUNT")
exec python -m sa.run -m "$@" hydra/launcher=slurm "${settings[@]}"
