#!/usr/bin/env bash
# The same GRPO run on this machine, on a private Ray, whatever cluster RAY_ADDRESS names:
#   launch/ray/local.sh model=qwen2_5_vl_3b data.dir=data/thinkvg-qwen2_5_vl model.path=outputs/sft
# SIGTERM or SIGUSR1 (docker stop, a pod that is evicted, kill) has it save a checkpoint after its step
# and end with code 75; run the same command to resume. A second SIGTERM ends it at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=launch/await.sh
source launch/await.sh
export RAY_ADDRESS=local
folder=$(mktemp -d)
export THINKVG_STOP_FILE=$folder/stop
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

driver=
asked=
# shellcheck disable=SC2329 # called by the traps below
ask() {
    asked=yes
    echo "launch: told to end; the trainer saves a checkpoint after this step"
    touch "$THINKVG_STOP_FILE"
}
# shellcheck disable=SC2329
on_term() { if [[ -z $asked ]]; then ask; else kill -TERM "$driver" 2>/dev/null || true; fi; }
trap ask USR1
trap on_term TERM
trap 'kill -TERM "$driver" 2>/dev/null || true; rm -rf "$folder"' EXIT

command=(launch/ray/preflight.sh)
if [[ -n ${THINKVG_DRIVER:-} ]]; then read -ra command <<<"$THINKVG_DRIVER"; fi
"${command[@]}" "$@" &
driver=$!
await "$driver"
exit "$code"
