#!/usr/bin/env bash
# The driver itself as a job of one CPU, for sweeps that outlive a login session:
#   sbatch launchers/driver_job.sh experiment=descent_dims
# Its children get resources of their own: what SLURM tells this job is not passed on.
#SBATCH --job-name=sa-driver
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=1-00:00:00
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
exec python -m sa.run -m "$@" hydra/launcher=slurm
