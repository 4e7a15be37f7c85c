#!/usr/bin/env bash
# Sets up what the tests need, then lint, types and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash .ci/setup tests
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy --strict -p slogpt_hf
# Two processes share the cores better than torch's own threads do on models this small.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export TESTS_NEED_SECOND_CLIENT=1 # a fresh machine that skips these tests tests nothing of theirs
exec .venv/bin/python -m pytest --numprocesses 2 "$@"
