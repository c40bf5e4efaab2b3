#!/usr/bin/env bash
# A GPU cluster with SLURM. A job has one GPU and runs several points, so that it imports and opens the device once.
#   PARTITION=gpu QOS=normal launchers/gpu_cluster.sh experiment=digits_ste seed=0,1,2,3
#   GPUS=1 MINUTES=240 POINTS=8 launchers/gpu_cluster.sh ...
set -euo pipefail
settings=("hydra.launcher.gpus=${GPUS:-1}" "hydra.launcher.cpus=${CPUS:-4}")
[[ -z ${MINUTES-} && -n ${SBATCH_TIMELIMIT-} ]] || settings+=("hydra.launcher.time=${MINUTES:-120}")
[[ -z ${PARTITION-} ]] || settings+=("hydra.launcher.partition=$PARTITION")
[[ -z ${QOS-} ]] || settings+=("hydra.launcher.qos=$QOS")
[[ -z ${POINTS-} ]] || settings+=("hydra.launcher.points_per_job=$POINTS")
exec python -m sa.run -m device=cuda "$@" hydra/launcher=slurm "${settings[@]}"
