#!/usr/bin/env bash
# Sets up what a release needs, then does the main job on an embedded hub: no account, no network.
# With a checkpoint as argument that one is released, else two small models are trained first.
set -euo pipefail
here=$(dirname "$0")/..
bash "$here/.ci/setup"
exec "$here/.venv/bin/slogpt-hf" demo "$@"
