#!/usr/bin/env bash
# A laptop or workstation: every study, one after another, here. Repeating it does only what is missing.
#   launchers/laptop.sh                     all studies of conf/experiment; one that fails does not stop the others
#   launchers/laptop.sh descent_dims        some of them
#   SA_ROOT=/big/disk launchers/laptop.sh   results elsewhere
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
