#!/usr/bin/env bash
# A laptop or workstation: runs the studies here, one after another. Repeating the command runs only missing points.
#   launchers/laptop.sh                     all studies of conf/experiment; a failed one does not stop the others
#   launchers/laptop.sh descent_dims        some of them
#   SA_ROOT=/big/disk launchers/laptop.sh   results in another folder
set -euo pipefail
cd "$(dirname "$0")/.."
make setup
if (($# == 0)); then
  studies=(conf/experiment/*.yaml)
  studies=("${studies[@]##*/}")
  set -- "${studies[@]%.yaml}"
fi
failed=()
for study in "$@"; do
  .venv/bin/python -m sa.run -m "experiment=$study" || failed+=("$study")
done
((${#failed[@]} == 0)) || { echo "failed: ${failed[*]}" >&2; exit 1; }
