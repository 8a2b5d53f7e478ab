#!/usr/bin/env bash
# Measures on a machine that has torch but no package registry, with the wheels that wheels.py has fetched:
#     scripts/gpu_check/run.sh .wheels [options of python scripts/gpu_check]
# They are installed aside, once; the installation counts towards --seconds.
set -eu
started=$(date +%s)
repository=$(cd "$(dirname "$0")/../.." && pwd)
wheels=$1
shift
site=${TMPDIR:-/tmp}/govor-gpu-check-site-$(id -u)
if [ ! -e "$site/installed" ]; then
    ${PYTHON:-python3} -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$wheels"/*.whl
    touch "$site/installed"
fi
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
exec ${PYTHON:-python3} "$repository/scripts/gpu_check" --started "$started" "$@"
