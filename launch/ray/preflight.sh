#!/usr/bin/env bash
# The checks ahead of a run, then the run: launch/ray/preflight.sh OVERRIDES. On a Ray cluster it is
# what `ray job submit` starts on the head, where the data and the models are; local.sh has it on this
# machine. THINKVG_PREFLIGHT: on; warn shows problems and continues; off.
set -euo pipefail
python=${THINKVG_PYTHON:-python}
case ${THINKVG_PREFLIGHT:-on} in
    on | warn) ;;
    off) exec "$python" -m recipe.train "$@" ;;
    *)
        echo "error: THINKVG_PREFLIGHT=$THINKVG_PREFLIGHT: choose on, warn or off" >&2
        exit 2
        ;;
esac
code=0
"$python" -m recipe.preflight "$@" || code=$?
if ((code != 0)); then
    if [[ ${THINKVG_PREFLIGHT:-on} != warn ]]; then
        echo "error: the checks ahead of the run found problems (above); THINKVG_PREFLIGHT=warn passes them" >&2
        exit "$code"
    fi
    echo "launch: continuing in spite of them (THINKVG_PREFLIGHT=warn)"
fi
exec "$python" -m recipe.train "$@"
