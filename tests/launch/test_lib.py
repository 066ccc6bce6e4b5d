"""launch/slurm/lib.sh in a shell of its own, with functions in the place of SLURM's tools."""

import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = "TimeLimit=1-00:00:00"
# An attempt that is running, its driver a sleep.
RUNNING = """
job=7 nodes=(n1) head=n1 attempt=${ATTEMPT:-0} python=python cpus=1 silent=
log_dir=$PWD/logs/attempt-$attempt; mkdir -p "$log_dir"; THINKVG_STOP_FILE=$log_dir/stop
install_traps
"""
ANSWERS = """scontrol() { case "$*" in
    "show job"*) printf '   %s\\n   StartTime=2030-01-01T00:00:00 EndTime=%s Deadline=N/A\\n' \\
        "${LIMIT:-TimeLimit=UNLIMITED}" "$(date -d "+${LEFT:-3600} sec" +%FT%T)" ;;
    "show hostnames"*) echo nowhere-node1 ;;
    *) echo "scontrol $*" ;;
esac; }
"""
SILENT = 'scontrol() { echo "Unable to contact slurm controller" >&2; return 1; }\n'


def shell(folder: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script behind `source lib.sh`; its output and errors in one."""
    start = f"set -euo pipefail\nsource {ROOT}/launch/slurm/lib.sh\n"
    return subprocess.run(
        ["bash", "-c", start + text],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


WARNED = 'sleep 3 & driver=$!\n(sleep 1; kill -USR1 $$) &\nphase=running\nawait "$driver"\n'


def test_a_child_that_ends_while_a_trap_runs_keeps_its_code(tmp_path: Path) -> None:
    child = "(kill -USR1 $$; sleep 0.2; exit 75) &\n"
    text = "trap 'sleep 1; echo asked' USR1\n" + child + 'await $!\necho "code $code"\n'
    assert shell(tmp_path, text).stdout == "asked\ncode 75\n"


def test_a_task_of_an_array_requeues_itself_alone(tmp_path: Path) -> None:
    text = ANSWERS + "address_of() { echo 10.0.0.1; }\ndescribe_allocation\nagain fault\n"
    variables = {"SLURM_JOB_NODELIST": "n", "SLURM_JOB_ID": "36", "SLURM_RESTART_COUNT": "0"}
    done = shell(tmp_path, text, **variables, SLURM_ARRAY_JOB_ID="36", SLURM_ARRAY_TASK_ID="3")
    assert done.stdout.splitlines()[-1] == "scontrol requeue 36_3"
    done = shell(tmp_path, text, **variables)
    assert done.stdout.splitlines()[-1] == "scontrol requeue 36"


def test_a_node_without_an_address_is_named(tmp_path: Path) -> None:
    done = shell(
        tmp_path,
        ANSWERS + "getent() { return 2; }\ndescribe_allocation\n",
        SLURM_JOB_ID="7",
        SLURM_JOB_NODELIST="n",
    )
    assert done.returncode == 2
    assert "nowhere-node1: no address; define address_of" in done.stdout


def test_an_address_of_another_kind_is_taken(tmp_path: Path) -> None:
    known = 'getent() { [[ $1 == ahosts ]] && echo "fd00::7 STREAM n"; }\n'
    assert shell(tmp_path, ANSWERS + known + "address_of n\n").stdout == "fd00::7\n"


@pytest.mark.parametrize(
    ("names", "hosts", "dns", "code", "line"),
    [
        ("n1 n2", "127.0.1.1 10.0.0.1", "10.9.9.9", 0, "10.0.0.1 10.0.0.1"),
        ("n1 n2", "127.0.1.1", "10.9.9.9", 0, "10.9.9.9 10.9.9.9"),
        ("n1 n2", "127.0.1.1", "", 2, "n1: other nodes do not reach 127.0.1.1; define address_of"),
        ("n1 n2", "::1", "", 2, "n1: other nodes do not reach ::1; define address_of"),
        ("n1", "127.0.1.1", "10.9.9.9", 0, "127.0.1.1"),
    ],
    ids=["second line", "DNS", "none", "none, IPv6", "one node"],
)
def test_several_nodes_have_addresses_that_others_reach(
    tmp_path: Path, names: str, hosts: str, dns: str, code: int, line: str
) -> None:
    # What a Debian machine makes of its own name; ahostsv4 has no addresses of IPv6.
    text = """
    scontrol() { [[ $2 != hostnames ]] || printf '%s\\n' $NAMES; }
    getent() {
        local found=$HOSTS
        [[ $1 != -s ]] || found=$DNS
        [[ -n $found && ! ($1 == ahostsv4 && $found == *::*) ]] || return 2
        printf '%s STREAM n\\n' $found
    }
    describe_allocation
    for node in "${nodes[@]}"; do printf '%s ' "${addresses[$node]}"; done
    """
    allocation = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
    done = shell(tmp_path, text, NAMES=names, HOSTS=hosts, DNS=dns, **allocation)
    assert done.returncode == code, done.stdout
    assert line in done.stdout.splitlines()[-1]


def test_the_time_left_is_the_job_s_own(tmp_path: Path) -> None:
    done = shell(tmp_path, ANSWERS + RUNNING + WARNED, LIMIT=LIMIT, LEFT="632")
    assert done.returncode == 0, done.stdout
    assert "the trainer has 60" in done.stdout


def test_a_controller_that_is_silent_ends_nothing(tmp_path: Path) -> None:
    done = shell(tmp_path, SILENT + RUNNING + WARNED, SBATCH_SIGNAL="B:USR1@230")
    assert done.returncode == 0, done.stdout
    assert "the trainer has 200 s" in done.stdout


PREFLIGHT = 'mkdir -p recipe/preflight\nstep() { exec sh -c "$STEP"; }\n'


@pytest.mark.parametrize(
    ("mode", "code", "told"),
    [
        ("on", 2, "THINKVG_PREFLIGHT=warn passes them"),
        ("warn", 0, "continuing in spite of them"),
        ("off", 0, ""),
        ("maybe", 2, "choose on, warn"),
    ],
)
def test_problems_end_a_job_unless_told_otherwise(
    tmp_path: Path, mode: str, code: int, told: str
) -> None:
    text = ANSWERS + PREFLIGHT + RUNNING + "preflight train\n"
    done = shell(tmp_path, text, STEP="exit 2", THINKVG_PREFLIGHT=mode)
    assert done.returncode == code, done.stdout
    assert told in done.stdout


def test_a_signal_during_the_checks_requeues(tmp_path: Path) -> None:
    text = ANSWERS + PREFLIGHT + RUNNING + "(sleep 1; kill -USR1 $$) &\npreflight train\n"
    done = shell(tmp_path, text, STEP="exec sleep 20", LIMIT=LIMIT, LEFT="32")
    assert done.returncode == 0, done.stdout
    assert "scontrol requeue 7" in done.stdout


def test_a_limit_shorter_than_the_lead_fails(tmp_path: Path) -> None:
    text = ANSWERS + RUNNING + "(sleep 1; kill -USR1 $$) &\nsleep 10 & await $!\n"
    done = shell(tmp_path, text, LIMIT="TimeLimit=00:10:00", LEFT="598")
    assert done.returncode == 2
    assert "the time limit of 600 s is no longer than the lead" in done.stdout


@pytest.mark.parametrize(("steps", "code"), [("5 5 5", 2), ("5 5 0", 0), ("0 5 5", 0)])
def test_attempts_without_progress_end(tmp_path: Path, steps: str, code: int) -> None:
    (tmp_path / "marker").write_text("5")
    earlier = [
        f"mkdir -p logs/attempt-{number}; echo {step} >logs/attempt-{number}/step\n"
        for number, step in enumerate(steps.split())
    ]
    text = "".join(earlier) + ANSWERS + RUNNING
    text += 'echo "$PWD/marker" >"$THINKVG_STOP_FILE.marker"\nagain "lost Ray"\n'
    done = shell(tmp_path, text, ATTEMPT="3")
    assert done.returncode == code, done.stdout
    told = "requeued 3 times without a new checkpoint (the last is of step 5)"
    assert (told in done.stdout) == bool(code)


def test_a_checkpoint_saved_on_request_is_progress(tmp_path: Path) -> None:
    text = "for n in 0 1 2; do mkdir -p logs/attempt-$n; echo 0 >logs/attempt-$n/step; done\n"
    text += ANSWERS + RUNNING + 'echo 7 >"$THINKVG_STOP_FILE.done"\nagain saved\n'
    done = shell(tmp_path, text, ATTEMPT="3")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "logs" / "attempt-3" / "step").read_text() == "7\n"


def test_an_attempt_that_ends_early_has_the_step_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "marker").write_text("5")
    text = "mkdir -p logs/attempt-0; echo $PWD/marker >logs/attempt-0/stop.marker\n"
    done = shell(tmp_path, text + ANSWERS + RUNNING + "checkpoint_step", ATTEMPT="1")
    assert done.stdout == "5"


def test_what_a_site_loads_may_be_careless(tmp_path: Path) -> None:
    careless = 'site_setup() { : "$UNSET_THING"; false; echo loaded; [[ -n "" ]]; }\nset_up_site\n'
    done = shell(tmp_path, careless + "echo on")
    assert done.stdout.splitlines()[0] == "loaded"
    assert done.stdout.splitlines()[-1] == "on"


def test_caches_of_compiled_code_stay_on_the_node(tmp_path: Path) -> None:
    text = (
        'keep_caches_on_nodes\necho "$TRITON_CACHE_DIR"; env | grep -c "/scratch/thinkvg-cache-"\n'
    )
    done = shell(tmp_path, text, THINKVG_SCRATCH="/scratch", HOME="/home/user")
    assert done.stdout == f"/scratch/thinkvg-cache-{os.getuid()}/triton\n4\n"
    done = shell(tmp_path, text, THINKVG_SCRATCH="/scratch", TRITON_CACHE_DIR="/mine")
    assert done.stdout == "/mine\n3\n"


@pytest.mark.parametrize("job", ["train", "sft"])
def test_every_job_keeps_them_there(job: str) -> None:
    lines = (ROOT / "launch" / "slurm" / f"{job}.sbatch").read_text().splitlines()
    assert "keep_caches_on_nodes" in lines


@pytest.mark.parametrize(("code", "ends"), [(75, 0), (1, 1), (2, 2)])
def test_a_run_that_was_stuck_is_requeued(tmp_path: Path, code: int, ends: int) -> None:
    text = ANSWERS + RUNNING + "node_is_gone() { return 1; }\n"
    done = shell(tmp_path, text + f"(exit {code}) & driver=$!\nconclude\n")
    assert done.returncode == ends, done.stdout
    assert ("the run was stuck" in done.stdout) == (code == 75)
    assert ("scontrol requeue 7" in done.stdout) == (code == 75)


@pytest.mark.parametrize(
    ("log", "told"),
    [("error: port 12001 is taken\n", "port 12001 is taken"), (None, "n1: Ray ended")],
)
def test_a_lost_daemon_requeues_with_or_without_its_log(
    tmp_path: Path, log: str | None, told: str
) -> None:
    text = ANSWERS + RUNNING + "node_is_gone() { return 1; }\nsleep 30 & driver=$!\n"
    if log:
        text += f"printf '{log}' >\"$log_dir/ray-n1.log\"\n"
    done = shell(tmp_path, text + "(exit 1) & watch n1 $!\nconclude\n")
    assert done.returncode == 0, done.stdout
    assert f"lost Ray on a node: {told}" in done.stdout
    assert "scontrol requeue 7" in done.stdout


@pytest.mark.parametrize(
    ("driver", "margin", "code"),
    [
        ("(trap '' TERM; exec sleep 50)", "6", 137),
        ("sleep 50", "300", 143),  # the clock of 100 s must not outlive the job
    ],
    ids=["ignores SIGTERM", "ends"],
)
def test_a_job_without_time_for_a_checkpoint_is_requeued_in_time(
    tmp_path: Path, driver: str, margin: str, code: int
) -> None:
    text = ANSWERS + RUNNING + "node_is_gone() { return 1; }\n"
    text += f"{driver} & driver=$!\n(sleep 1; kill -USR1 $$) &\nconclude\n"
    start = time.monotonic()
    done = shell(tmp_path, text, LIMIT=LIMIT, LEFT="6", THINKVG_MARGIN=margin)
    assert time.monotonic() - start < 15  # also waits for all that has this output open
    assert done.returncode == 0, done.stdout
    assert f"the driver ended with code {code} before it could save" in done.stdout
    assert ("has not ended within 2 s" in done.stdout) == (code == 137)
    assert done.stdout.splitlines()[-1] == "scontrol requeue 7"
