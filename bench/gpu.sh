#!/usr/bin/env bash
# Measures Burnish on this machine's GPU within 10 minutes, and leaves a table in gpu.md.
#
#   bash bench/gpu.sh [--minutes 10] [--output gpu.md]
#   bash bench/gpu.sh --tiny      # tries every part on a CPU; its figures mean nothing
set -eu
bench=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$bench/../.venv/bin/python}
[ -x "$python" ] || python=python3
exec "$python" "$bench/gpu.py" "$@"
