#!/usr/bin/env bash
# Sets up what the tests need, then lint, types and tests. Arguments go to pytest; without any, a
# slice of the tests runs first with the lowest and the newest versions that the package admits, and
# artefacts are loaded by transformers 4.
# What a machine cannot have is skipped, with a word; in a CI it fails. docs/testing.md tells more.
set -euo pipefail
cd "$(dirname "$0")/.."
bash .ci/setup tests
export TESTS_NEED=node

lacking() {
  echo "tests: $1" >&2
  if [ "${CI:-}" = true ]; then exit 2; fi
  echo "tests: those that need it are skipped." >&2
}

if command -v git-lfs >/dev/null && command -v rsync >/dev/null; then
  TESTS_NEED+=" programs"
else
  lacking "git-lfs or rsync is missing: apt-get install git-lfs rsync"
fi
# Only root can start an engine; nobody else is asked to let one be installed.
if [ "$(id -u)" != 0 ] && ! docker info >/dev/null 2>&1; then
  lacking "no container engine answers."
elif engine=$(bash .ci/engine image); then
  trap 'bash .ci/engine stop' EXIT
  eval "$engine"
  TESTS_NEED+=" engine"
else
  lacking "the image could not be built, see above."
fi

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy --strict -p slogpt_hf
if [ $# = 0 ]; then .venv/bin/python .ci/versions.py lowest newest elsewhere; fi
# Two processes share the cores better than torch's own threads do on models this small.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
.venv/bin/python -m pytest --numprocesses 2 "$@"
