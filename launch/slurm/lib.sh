#!/usr/bin/env bash
# What train.sbatch and sft.sbatch share; they source it. Job steps, the signal before a time limit,
# requeueing, and an end that leaves nothing behind. What a site sets is in site.example.sh.
# shellcheck disable=SC2034 # the scripts that source this use its variables
# shellcheck source=launch/await.sh
source "$(dirname "${BASH_SOURCE[0]}")/../await.sh"

say() { echo "launch: $(date +%T) $*"; }

fail() {
    say "error: $*" >&2
    exit 2
}

# --- the allocation --------------------------------------------------------------------------------

nodes=() # of the job, its head first

# Whether an address leads a machine to itself.
is_loopback() { [[ $1 == 127.* || $1 == ::1 ]]; }

# From the lines of getent: the first address that is no loopback, else the first; empty without lines.
first_address() {
    awk 'NR == 1 { first = $1 } !far && $1 !~ /^127\.|^::1$/ { far = $1 } END { print far ? far : first }'
}

# The address that other nodes reach a node at. A site may define address_of anew.
if ! declare -F address_of >/dev/null; then
    address_of() {
        local name address
        name=$(scontrol show node --oneliner "$1" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p') || true
        name=${name:-$1}
        address=$({ getent ahostsv4 "$name" || getent ahosts "$name" || true; } | first_address)
        # /etc/hosts of Debian and Ubuntu has 127.0.1.1 for a machine's own name. The other nodes use the
        # DNS. (`hostname -I` does not say which of its addresses they reach.)
        if is_loopback "$address" && ((${#nodes[@]} > 1)); then
            name=$(getent -s dns ahostsv4 "$name" | first_address) || true
            address=${name:-$address}
        fi
        echo "$address"
    }
fi

# Fills addresses; between several nodes a loopback is none.
find_addresses() {
    local node address advice="define address_of in the site file (${THINKVG_SITE:-none is set})"
    declare -gA addresses=()
    for node in "${nodes[@]}"; do
        address=$(address_of "$node") || true
        [[ -n $address ]] || fail "$node: no address; $advice"
        if ((${#nodes[@]} > 1)) && is_loopback "$address"; then
            fail "$node: other nodes do not reach $address; $advice"
        fi
        addresses[$node]=$address
    done
}

# What the site loads. Module systems and conda keep neither to `set -e` nor to `set -u`.
set_up_site() {
    local status=0
    declare -F site_setup >/dev/null || return 0
    set +u
    site_setup || status=$?
    set -u
    ((status == 0)) || say "site_setup ended with code $status (${THINKVG_SITE:-}); the job continues"
}

# Fills job, nodes, addresses, head, base_port, attempt and log_dir.
describe_allocation() {
    [[ -n ${SLURM_JOB_ID:-} ]] || fail "this is a job script: sbatch --nodes=N launch/slurm/train.sbatch OVERRIDES"
    # One task of an array has the number of the whole array, which SLURM would take for all tasks.
    job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
    job=${job:-$SLURM_JOB_ID}
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    find_addresses
    head=${nodes[0]}
    # A block of 1000 ports, below the ports that the kernel gives out itself (from 32768).
    base_port=${THINKVG_PORT:-$((12000 + SLURM_JOB_ID % 20 * 1000))}
    attempt=${SLURM_RESTART_COUNT:-0}
    ((attempt <= ${THINKVG_MAX_RESTARTS:-50})) ||
        fail "requeued $attempt times, more than THINKVG_MAX_RESTARTS=${THINKVG_MAX_RESTARTS:-50}"
    log_dir=${THINKVG_LOGS:-$PWD/outputs/slurm}/$SLURM_JOB_ID/attempt-$attempt
    mkdir -p "$log_dir"
    # Of this job: with --exclusive, SLURM_GPUS_ON_NODE counts all that the node has.
    gpus=${SLURM_GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-0}}
    gpus=${gpus##*:}
    cpus=${SLURM_CPUS_ON_NODE:-1}
    # A request to save and end reaches the trainer as this file; it answers with stop.done.
    export THINKVG_STOP_FILE=$log_dir/stop
    # Only processes of this job may talk to its Ray.
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    # Ahead of the folder `recipe` that TransferQueue leaves in site-packages.
    export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
    python=${THINKVG_PYTHON:-python}
    say "job $job, attempt $attempt: ${#nodes[@]} nodes (${nodes[*]}), $gpus GPUs each, ports from $base_port, logs in $log_dir"
}

# Caches of compiled code, on each node's own disk: a home is one for all nodes, and nodes that compile
# into one folder at once read each other's unfinished files. What is set already stays.
keep_caches_on_nodes() {
    local folder
    folder=${THINKVG_SCRATCH:-/tmp}/thinkvg-cache-$(id -u)
    export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$folder/triton}
    export VLLM_CACHE_ROOT=${VLLM_CACHE_ROOT:-$folder/vllm}
    export FLASHINFER_WORKSPACE_BASE=${FLASHINFER_WORKSPACE_BASE:-$folder}
    export CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-$folder/cuda}
}

# How commands enter the container, where THINKVG_CONTAINER names one.
declare -a site_srun site_wrap
describe_container() {
    # The node's scratch folder: Ray's sockets are there, which the steps of a job share. Containers of
    # enroot would each have an empty /tmp of their own.
    local scratch=${THINKVG_SCRATCH:-/tmp}
    local mounts=$PWD:$PWD,$scratch:$scratch${THINKVG_MOUNTS:+,$THINKVG_MOUNTS}
    case ${THINKVG_CONTAINER:-none} in
        none) ;;
        pyxis)
            site_srun+=(--container-image="${THINKVG_IMAGE:?set THINKVG_IMAGE in the site file}")
            site_srun+=(--container-mounts="$mounts" --container-workdir="$PWD" --no-container-mount-home)
            ;;
        apptainer)
            site_wrap+=(apptainer exec --nv --bind "$mounts" --pwd "$PWD")
            site_wrap+=("${THINKVG_IMAGE:?set THINKVG_IMAGE in the site file}")
            ;;
        *) fail "THINKVG_CONTAINER=$THINKVG_CONTAINER: choose none, pyxis or apptainer" ;;
    esac
}

# step NODES COMMAND…: a job step with one task on each of NODES (a,b); all of a node is its to use.
step() {
    local on=$1 count
    shift
    count=$(tr ',' '\n' <<<"$on" | wc -l)
    # --export: a job submitted with --export=NONE would have its steps start without its variables
    exec srun --export=ALL --overlap --nodes="$count" --ntasks="$count" --ntasks-per-node=1 --nodelist="$on" \
        --cpus-per-task="$cpus" --mem=0 --kill-on-bad-exit=1 --unbuffered \
        "${site_srun[@]}" "${site_wrap[@]}" "$@" </dev/null
}

# --- signals and the end -----------------------------------------------------------------------------

phase=starting # starting, running, ending
driver=        # process id of the driver's srun
timer=         # process id of the clock that ends a save which takes too long
lost=          # why the allocation can no longer be used
asked=         # a signal has asked for an end
late=          # the time for a save is over
declare -A daemons=() # process id of a step that has to live as long as the driver, by node

# field NAME TEXT: the first NAME=VALUE in what scontrol says; empty where it says nothing.
field() { [[ ! $2 =~ (^|[[:space:]])$1=([^[:space:]]*) ]] || echo "${BASH_REMATCH[2]}"; }

# [DAYS-]HOURS:MINUTES:SECONDS in seconds; a large number where there is no limit.
seconds_of() {
    if [[ $1 =~ ^(([0-9]+)-)?([0-9]+):([0-9]+):([0-9]+)$ ]]; then
        echo $((10#${BASH_REMATCH[2]:-0} * 86400 + 10#${BASH_REMATCH[3]} * 3600 +
            10#${BASH_REMATCH[4]} * 60 + 10#${BASH_REMATCH[5]}))
    else
        echo 999999999
    fi
}

# USR1 comes before the time limit or a pre-emption: --signal=B:USR1@SECONDS.
on_warning() {
    [[ $phase != ending && -z $asked ]] || return 0
    asked=yes
    touch "$THINKVG_STOP_FILE"
    local said end left limit
    said=$(scontrol show job "$job") || said=
    end=$(date -d "$(field EndTime "$said")" +%s 2>/dev/null) || end=
    if [[ -n $(field EndTime "$said") && -n $end ]]; then
        left=$((end - $(date +%s)))
    else
        # SLURM does not answer: what the signal was asked for
        left=${SBATCH_SIGNAL:-B:USR1@600}
        left=${left##*@}
    fi
    limit=$(seconds_of "$(field TimeLimit "$said")")
    # Not a pre-emption, which leaves less than the limit. SLURM sends the signal half a minute early at
    # most, so a longer limit would have let this attempt run for longer than that.
    if [[ $phase == starting ]] && ((SECONDS < 25 && limit <= SECONDS + left + 30)); then
        fail "the time limit of $limit s is no longer than the lead of its signal: raise --time," \
            "or lower --signal=B:USR1@SECONDS"
    fi
    left=$((left - ${THINKVG_MARGIN:-30}))
    ((left > 0)) || left=0
    say "signal before the end of this job: the trainer has $left s to save a checkpoint"
    ring_in "$left"
}

# ring_in SECONDS: ALRM to this script, unless stop_everything ends the clock first.
ring_in() {
    (
        end=$((SECONDS + $1))
        # Short naps: the one that a clock leaves when it is ended is over at once.
        while ((SECONDS < end)); do sleep 1; done
        kill -ALRM "$$"
    ) &
    timer=$!
}

# ALRM: the time for a save is over, or the time after it that a driver has to end. This is a third of
# the margin: nodes and daemons need the rest. SIGKILL leaves the tasks of srun, which the requeue ends.
on_late() {
    local grace=$((${THINKVG_MARGIN:-30} / 3))
    [[ $phase != ending ]] || return 0
    if [[ -z $late ]]; then
        late=yes
        say "no time left for a checkpoint; the next attempt resumes from the last one"
        stop_process "$driver"
        ring_in "$grace"
    elif is_running "$driver"; then
        say "the driver has not ended within $grace s; it is killed"
        kill -KILL "$driver" 2>/dev/null || true
    fi
}

# Whether a process is a child that is still running. The number of one that has ended may be another's.
is_running() { [[ -n $1 && $'\n'$(jobs -rp)$'\n' == *$'\n'$1$'\n'* ]]; }

# USR2 comes from the watch over a daemon.
on_daemon_end() {
    local node
    [[ $phase != ending && -z $lost ]] || return 0
    for node in "${!daemons[@]}"; do
        kill -0 "${daemons[$node]}" 2>/dev/null && continue
        # Where the program knows the cause, it is a line of its own.
        lost=$(sed -n 's/^error: //p' "$log_dir/ray-$node.log" | tail -n 1) || true
        lost=${lost:-$node: Ray ended there}
        say "$node: Ray ended there (log: $log_dir/ray-$node.log); its last lines:"
        tail -n 15 "$log_dir/ray-$node.log" | sed "s/^/$node: /" || true
        stop_process "$driver"
        return 0 # a bare return would give the status of what the signal interrupted
    done
}

on_end() {
    say "told to end"
    exit 143
}

stop_process() { [[ -z $1 ]] || kill -TERM "$1" 2>/dev/null || true; }

# Ends every step, waiting a few seconds for each to clean up.
stop_everything() {
    local process waited=0
    phase=ending
    trap '' USR1 USR2 ALRM
    for process in "$driver" "$timer" "${daemons[@]}"; do stop_process "$process"; done
    for process in "$driver" "${daemons[@]}"; do
        while [[ -n $process ]] && kill -0 "$process" 2>/dev/null; do
            if ((waited++ >= 100)); then
                kill -KILL "$process" 2>/dev/null || true
                break
            fi
            sleep 0.1
        done
    done
}

install_traps() {
    trap on_warning USR1
    trap on_late ALRM
    trap on_daemon_end USR2
    trap on_end TERM INT
    trap stop_everything EXIT
}

# watch NODE PROCESS: the step PROCESS has to live as long as the driver.
watch() {
    daemons[$1]=$2
    (
        tail --pid="$2" -f /dev/null
        kill -USR2 "$$" 2>/dev/null
    ) &
}

# drive NODES COMMAND…: the step that this job waits for.
drive() {
    step "$@" &
    driver=$!
    [[ -z $lost && -z $late ]] || stop_process "$driver"
}

# preflight PROGRAM OVERRIDES…: `recipe.preflight` on the head, ahead of the first attempt. With a
# driver of one's own there is no configuration that it could check.
preflight() {
    local mode=${THINKVG_PREFLIGHT:-on}
    [[ $mode == on || $mode == warn || $mode == off ]] ||
        fail "THINKVG_PREFLIGHT=$mode: choose on, warn (problems are told and do not end the job) or off"
    if ((attempt > 0)) || [[ $mode == off || -n ${THINKVG_DRIVER:-} || ! -d recipe/preflight ]]; then
        return 0
    fi
    drive "$head" "$python" -m recipe.preflight --program "$@"
    await "$driver"
    driver=
    [[ -z $asked ]] || again "the end of the job came before its checks were done"
    ((code != 0)) || return 0
    if ((code != 2)) && node_is_gone; then again_by_slurm "$silent does not answer"; fi
    [[ $mode == warn ]] ||
        fail "the checks ahead of the run found problems (above); THINKVG_PREFLIGHT=warn passes them"
    say "the checks ahead of the run found problems (above); continuing in spite of them (THINKVG_PREFLIGHT=warn)"
}

# Whether nodes no longer answer SLURM; their names are then in `silent`. (SLURM itself takes up to
# SlurmdTimeout to notice.)
node_is_gone() {
    local node code probes=()
    silent=
    for node in "${nodes[@]}"; do
        timeout "${THINKVG_PROBE_TIMEOUT:-30}" srun --overlap --nodes=1 --ntasks=1 \
            --nodelist="$node" --mem=0 true >"$log_dir/probe-$node.log" 2>&1 </dev/null &
        probes+=($!)
    done
    for node in "${!probes[@]}"; do
        await "${probes[node]}"
        ((code == 0)) || silent="${silent:+$silent, }${nodes[node]}"
    done
    [[ -n $silent ]]
}

# The step of the run's last checkpoint: what the program saved when asked, or what the marker says, whose
# path it leaves beside the stop file. An attempt that ended before that has the marker of the one before.
checkpoint_step() {
    local number marker
    if [[ -s $THINKVG_STOP_FILE.done ]]; then
        cat "$THINKVG_STOP_FILE.done"
        return 0
    fi
    for ((number = attempt; number >= 0; number--)); do
        marker=${log_dir%/*}/attempt-$number/${THINKVG_STOP_FILE##*/}.marker
        [[ -s $marker ]] || continue
        marker=$(<"$marker")
        [[ ! -s $marker ]] || cat "$marker"
        return 0
    done
}

# check_progress WHY: fails where this job was requeued several times and got no further by it.
check_progress() {
    local step before count=0 number most=${THINKVG_MAX_IDLE_RESTARTS:-3}
    step=$(checkpoint_step)
    step=${step:-0}
    echo "$step" >"$log_dir/step"
    for ((number = attempt - 1; number >= 0; number--)); do
        before=${log_dir%/*}/attempt-$number/step
        [[ -s $before && $(<"$before") == "$step" ]] || break
        count=$((count + 1))
    done
    ((count < most)) ||
        fail "$1; requeued $count times without a new checkpoint (the last is of step $step):" \
            "look for the cause in $log_dir, or raise THINKVG_MAX_IDLE_RESTARTS=$most"
}

# again WHY: puts this job back into the queue; a new attempt resumes from the last checkpoint.
again() {
    stop_everything
    check_progress "$1"
    say "$1; requeueing job $job"
    scontrol requeue "$job" ||
        fail "$1; SLURM did not requeue the job: submit the same command again to resume"
    exit 0
}

# again_by_slurm WHY: SLURM itself requeues this job once it takes the silent node for down. A job that
# requeues itself before that gets no GPUs in its next attempt (SLURM 22.05: "Invalid generic resource").
again_by_slurm() {
    local patience
    patience=$(scontrol show config | sed -n 's/^SlurmdTimeout *= *\([0-9]*\).*/\1/p') || patience=
    stop_everything
    check_progress "$1"
    say "$1; SLURM requeues the job when it takes the node for down (within ${patience:-300} s)"
    sleep $((${patience:-300} + 60)) &
    timer=$!
    wait "$timer"
    again "$1"
}

# Waits for the driver and draws the conclusion: requeue, or the driver's exit code.
conclude() {
    phase=running
    await "$driver"
    driver=
    if [[ -e $THINKVG_STOP_FILE.done ]]; then
        again "the trainer saved a checkpoint and ended (step $(<"$THINKVG_STOP_FILE.done"))"
    elif ((code == 0)); then
        say "the driver ended with code 0"
    elif node_is_gone; then
        again_by_slurm "$silent does not answer"
    elif [[ -n $lost ]]; then
        again "lost Ray on a node: $lost"
    elif [[ -n $asked ]]; then
        again "the driver ended with code $code before it could save"
    elif ((code == 75)); then
        again "the run was stuck (its last line above says where)"
    else
        # The exit code of this job is the driver's, even if there is no log to show.
        ! declare -F show_failure >/dev/null || show_failure || true
        say "error: the driver failed with code $code" >&2
    fi
    stop_everything
    exit "$code"
}
