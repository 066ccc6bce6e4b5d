#!/usr/bin/env bash
# The same GRPO run on a Ray cluster that is running already, by its job API (the dashboard's port):
#   launch/ray/submit.sh http://HEAD:8265 run_dir=/shared/runs/dense reward=dense data.dir=/shared/…
# Ray takes a copy of this repository to every node; runtime_env.yaml says what goes along. run_dir,
# data.dir and model.path are on a disk that all nodes share: the copy is deleted behind the job.
# Options of `ray job submit` (--no-wait, --headers …) go into RAY_JOB_OPTIONS, another file in the place
# of runtime_env.yaml into THINKVG_RUNTIME_ENV.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() {
    echo "error: $*" >&2
    exit 2
}

[[ ${1:-} == http*://* ]] ||
    fail "usage: launch/ray/submit.sh http://HEAD:8265 run_dir=/SHARED/DIR [OVERRIDES]"
address=$1
shift
run_dir=
for override in "$@"; do
    [[ $override != run_dir=* ]] || run_dir=${override#run_dir=}
done
[[ $run_dir == /* ]] ||
    fail "run_dir=$run_dir: add run_dir=/SHARED/DIR, an absolute path on a disk that all nodes share"

read -ra options <<<"${RAY_JOB_OPTIONS:-}"
# The command runs on the head node, with the cluster's own environment: the checks, then the run.
command=(env "THINKVG_PREFLIGHT=${THINKVG_PREFLIGHT:-on}" bash launch/ray/preflight.sh)
if [[ -n ${THINKVG_DRIVER:-} ]]; then read -ra command <<<"$THINKVG_DRIVER"; fi
submit=(ray job submit --address "$address"
    --runtime-env "${THINKVG_RUNTIME_ENV:-launch/ray/runtime_env.yaml}" "${options[@]}"
    -- "${command[@]}" "$@")

# A cluster that has just started has no agent for jobs yet. Ray waits 10 s for it, then refuses the job.
wait_s=${THINKVG_SUBMIT_WAIT_S:-120}
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
while :; do
    code=0
    { "${submit[@]}" 2>&1 1>&3 | tee "$errors" >&2; } 3>&1 || code=$?
    if ((code == 0)) || ! grep -q "No available agent to submit job" "$errors"; then exit "$code"; fi
    if ((SECONDS >= wait_s)); then
        fail "the cluster at $address has had no agent for jobs for $wait_s s: if another Ray ran on its" \
            "head node, start the head with a free port (ray start --dashboard-agent-listen-port=PORT)," \
            "else see dashboard_agent.log there, or wait longer (THINKVG_SUBMIT_WAIT_S)"
    fi
    echo "launch: the cluster has no agent for jobs yet; the job is submitted again" >&2
    sleep 2
done
