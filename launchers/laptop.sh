#!/usr/bin/env bash
# A laptop or workstation: every study, one after another, here. Repeating it does only what is missing.
#   launchers/laptop.sh                     all studies
#   launchers/laptop.sh descent_dims        some of them
#   SA_ROOT=/big/disk launchers/laptop.sh   results elsewhere
set -euo pipefail
cd "$(dirname "$0")/.."
make setup
for study in "${@:-descent_dims}"; do
  .venv/bin/python -m sa.run -m "experiment=$study"
done
