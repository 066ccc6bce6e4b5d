"""launch/ray without a Ray: the checks ahead of the run, in a program whose path has a space."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def python(tmp_path: Path) -> str:
    """A Python that says what it would run; the checks find a problem."""
    script = tmp_path / "sp ace" / "python"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho "ran $*"\n[ "$2" != recipe.preflight ] || exit 2\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize("script", ["preflight.sh", "local.sh"])
@pytest.mark.parametrize(
    ("mode", "code", "ran"),
    [
        ("on", 2, ["preflight"]),
        ("warn", 0, ["preflight", "train"]),
        ("off", 0, ["train"]),
        ("maybe", 2, []),
    ],
)
def test_the_checks_come_first(
    python: str, script: str, mode: str, code: int, ran: list[str]
) -> None:
    done = subprocess.run(
        [str(ROOT / "launch" / "ray" / script), "seed=1"],
        env={"PATH": "/usr/bin:/bin", "THINKVG_PYTHON": python, "THINKVG_PREFLIGHT": mode},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == code, done.stderr
    programs = [line for line in done.stdout.splitlines() if line.startswith("ran")]
    assert programs == [f"ran -m recipe.{name} seed=1" for name in ran]


def test_another_runtime_environment_is_submitted(tmp_path: Path) -> None:
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "$*"\n')
    ray.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "launch/ray/submit.sh"), "http://head:8265", "run_dir=/shared/run"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "THINKVG_RUNTIME_ENV": "/mine.yaml"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "--runtime-env /mine.yaml" in done.stdout
    wanted = "-- env THINKVG_PREFLIGHT=on bash launch/ray/preflight.sh run_dir=/shared/run"
    assert done.stdout.strip().endswith(wanted)


@pytest.mark.parametrize(
    ("refusals", "wait_s", "code", "message"),
    [
        (2, "60", 7, "launch: the cluster has no agent for jobs yet"),
        (9, "1", 2, "error: the cluster at http://head:8265 has had no agent for jobs for 1 s"),
    ],
)
def test_a_cluster_that_has_just_started_is_waited_for(
    tmp_path: Path, refusals: int, wait_s: str, code: int, message: str
) -> None:
    ray = tmp_path / "ray"
    ray.write_text(
        "#!/bin/bash\n"
        f"echo x >>{tmp_path}/calls\n"
        f"if (( $(wc -l <{tmp_path}/calls) <= {refusals} )); then\n"
        '    echo "RuntimeError: 500: No available agent to submit job, please try again." >&2\n'
        "    exit 1\n"
        "fi\n"
        "echo the job has run\n"
        "exit 7\n"
    )
    ray.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "launch/ray/submit.sh"), "http://head:8265", "run_dir=/shared/run"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "THINKVG_SUBMIT_WAIT_S": wait_s},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert ("the job has run" in done.stdout) == (code == 7)
