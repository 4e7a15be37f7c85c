#!/usr/bin/env bash
# Sets up what the tests need, then lint, types and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash .ci/setup
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy --strict -p slogpt_hf
# Two processes share the cores better than torch's own threads do on models this small.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
exec .venv/bin/python -m pytest --numprocesses 2 "$@"
