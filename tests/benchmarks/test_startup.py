"""The start-up profile, from the lines of a log."""

from benchmarks.startup import STAGES, ends, table

LINES = [
    (3.0, "[verl.plugin][INFO] - Platform override from VERL_PLATFORM: cpu"),
    (8.0, "INFO worker.py -- Started a local Ray instance."),
    (20.0, "\x1b[36m(TaskRunner pid=1)\x1b[0m INFO: Platform override from VERL_PLATFORM: cpu"),
    (25.0, "(TaskRunner pid=1) train and validate dataloader initialized, train dataset size: 9"),
    (90.0, "(TaskRunner pid=1) step  1/10    0.100"),
    (95.0, "(TaskRunner pid=1) step  2/10    0.100"),
]


def test_stages_end_where_their_lines_come() -> None:
    seconds_of = ends(LINES, STAGES["train"])
    assert list(seconds_of.values()) == [3.0, 8.0, 20.0, 25.0, 90.0]
    rows = table(seconds_of, STAGES["train"])
    assert "| agent loop, first step | 65.0 | 90.0 |" in rows
    assert "| task runner: imports | 12.0 | 20.0 |" in rows
