#!/usr/bin/env bash
# Runs the driver, which submits and follows a sweep, as a job of one CPU, so that it outlives your login session:
#   sbatch launchers/driver_job.sh experiment=descent_dims
# The jobs that it submits get their own resources; SLURM's variables of this job are not passed on.
#SBATCH --job-name=sa-driver
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=1-00:00:00
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
exec python -m sa.run -m "$@" hydra/launcher=slurm
