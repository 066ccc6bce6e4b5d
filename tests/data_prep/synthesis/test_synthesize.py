"""The synthesis against a server over real sockets, with faults, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import pyarrow.parquet as pq
import pytest

from data_prep.program import InputError, alone_in, is_synthetic, read_metadata
from data_prep.synthesis.journal import JOURNAL, Journal, Outcome
from data_prep.synthesize import main
from data_prep.thinkvg import main as thinkvg_main
from phantom.draw.__main__ import main as phantom_main

FAST = ["--backoff-s", "0.01", "--timeout-s", "20"]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    out = tmp_path_factory.mktemp("gemex")
    options = ["--images", "12", "--workers", "1", "--form", "gemex", "--dirty", "0.1"]
    assert phantom_main(["--out", str(out), *options]) == 0
    return out


@pytest.fixture
def command(phantom, judge_server, tmp_path):
    """The options of a run into `tmp_path / "out"`, and the server without faults."""
    judge_server.control(verdict="reasoning")
    findings = phantom / "findings.parquet"
    names = ["--source", str(phantom), "--findings", str(findings), "--out", str(tmp_path / "out")]
    return [*names, "--base-url", judge_server.url, *FAST]


def files(out):
    kept = pq.read_table(out / "data" / "train-00000-of-00001.parquet").to_pylist()
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    return kept, rejects, json.loads((out / "synthesis.json").read_text())


def source_rows(phantom):
    (file,) = (phantom / "data").glob("*.jsonl")
    return [line for line in file.read_text().splitlines() if line]


def test_every_row_is_kept_or_rejected_with_a_reason(command, phantom, tmp_path):
    assert main(command) == 0
    kept, rejects, report = files(tmp_path / "out")
    rows = source_rows(phantom)
    assert len(kept) + len(rejects) == len(rows) == report["rows"]["source"]
    assert report["rows"]["kept"] == len(kept) > 30
    counted = sum(report["rejects"].values())
    assert counted == len(rejects) > 0  # the phantom set has faulty rows
    for reject in rejects:
        assert reject["row"] == rows[reject["source_index"]]
        assert reject["reason"] in report["rejects"]
    asked = {json.loads(row)["question"] for row in rows if row.startswith("{")}
    for row in kept:
        assert row["question"].split(" <choices>")[0] in asked
        assert len(row["thinkVG"].split()) >= 20
        assert row["response"].startswith("<answer>")


def test_the_preparation_reads_what_comes_out(command, phantom, tmp_path):
    assert main(command) == 0
    kept, _, _ = files(tmp_path / "out")
    options = ["--source", str(tmp_path / "out"), "--images", str(phantom)]
    assert thinkvg_main([*options, "--out", str(tmp_path / "ready"), "--workers", "1"]) == 0
    audit = json.loads((tmp_path / "ready" / "audit.json").read_text())
    assert audit["rows"]["source"] == len(kept)
    # What is left to reject is images: the phantom set has some that are missing or do not open.
    assert {*audit["rejects"]} <= {"missing_image", "unreadable_image", "image_too_narrow"}
    assert audit["rows_without_reasoning"] == 0
    agreement = audit["splits"]["train"]["agreement"]
    assert agreement["cited_exactly"] == agreement["final_boxes"] > 0


CONTENT = ["mentions_report", "unknown_box", "too_short", "too_long", "tags"]
FORM = ["prose", "cut_json", "list"]


@pytest.mark.parametrize("fault", [*CONTENT, *FORM])
def test_a_reply_that_does_not_pass_is_asked_for_again(command, judge_server, tmp_path, fault):
    judge_server.control(verdict="reasoning", script=[fault])
    assert main([*command, "--limit", "5"]) == 0
    kept, _, report = files(tmp_path / "out")
    assert report["replies"] == len(kept) + 1
    again = [body for body in judge_server.seen()["bodies"] if len(body["messages"]) > 2]
    assert [each["role"] for each in again[0]["messages"]] == [
        *("system", "user", "assistant", "user")
    ]
    assert "cannot be used" in again[0]["messages"][-1]["content"]


@pytest.mark.parametrize("fault", CONTENT)
def test_a_row_that_never_passes_is_rejected_with_its_reason(
    command, judge_server, tmp_path, fault
):
    judge_server.control(verdict="reasoning", always=fault)
    assert main([*command, "--limit", "5", "--tries", "2"]) == 0
    kept, rejects, report = files(tmp_path / "out")
    assert kept == []
    assert fault in {reject["reason"] for reject in rejects}
    assert all(reject["detail"] for reject in rejects if reject["reason"] == fault)
    assert report["rows"]["kept"] == 0


def test_another_answer_is_rejected(command, judge_server, tmp_path):
    judge_server.control(verdict="reasoning", always="other_answer")
    assert main([*command, "--tries", "1"]) == 0
    kept, _, report = files(tmp_path / "out")
    assert kept == []
    assert report["rejects"]["answer_does_not_follow"] > 30


SERVER = ["503", "429:0", "drop", "drop_midway", "html", "empty", "null", "length"]


def test_faults_of_the_server_are_overcome(command, judge_server, tmp_path):
    judge_server.control(
        verdict="reasoning", shares=dict.fromkeys([*SERVER, *CONTENT], 0.03), seed=3
    )
    assert main([*command, "--attempts", "8", "--tries", "8"]) == 0
    kept, rejects, report = files(tmp_path / "out")
    faults = judge_server.seen()["faults"]
    assert sum(count for name, count in faults.items() if name in SERVER) > 3
    assert not {*report["rejects"]} & {*CONTENT, "server_failed", "refused"}
    assert report["rows"]["kept"] == len(kept)
    assert len(kept) + len(rejects) == report["rows"]["source"]


def test_a_dead_server_ends_the_run_and_nothing_is_lost(command, judge_server, tmp_path, capsys):
    judge_server.control(verdict="reasoning", script=["ok"] * 20, always="503")
    options = ["--attempts", "2", "--breaker-failures", "4", "--max-concurrency", "4"]
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "run the same command to resume" in error
    assert not (tmp_path / "out" / "synthesis.json").exists()
    judge_server.control(verdict="reasoning")
    assert main(command) == 0
    kept, rejects, report = files(tmp_path / "out")
    assert judge_server.seen()["requests"] == len(kept) - 20
    assert len(kept) + len(rejects) == report["rows"]["source"]


def test_rows_that_the_server_cannot_do_can_be_given_up(command, judge_server, tmp_path, capsys):
    few = [*command, "--limit", "6", "--attempts", "1"]
    judge_server.control(verdict="reasoning", script=["503"])
    assert main(few) == 2
    assert "--give-up rejects such rows" in capsys.readouterr().err
    judge_server.control(verdict="reasoning", script=["503"])
    assert main([*few, "--give-up"]) == 0
    assert files(tmp_path / "out")[2]["rejects"]["server_failed"] == 1


def test_a_request_that_is_refused_rejects_its_row_only(command, judge_server, tmp_path):
    judge_server.control(verdict="reasoning", script=["400"])
    assert main([*command, "--limit", "6"]) == 0
    _, rejects, report = files(tmp_path / "out")
    assert report["rejects"]["refused"] == 1
    assert "HTTP status 400" in next(r for r in rejects if r["reason"] == "refused")["detail"]


def test_many_refused_rows_do_not_end_the_run(command, judge_server, tmp_path):
    judge_server.control(verdict="reasoning", script=["400"] * 20)
    patience = ["--max-concurrency", "1", "--breaker-failures", "8"]
    assert main([*command, *patience]) == 0
    kept, _, report = files(tmp_path / "out")
    assert report["rejects"]["refused"] == 20
    assert len(kept) == judge_server.seen()["requests"] - 20 > 8


def test_a_server_that_refuses_every_row_ends_the_run_and_rejects_none(
    command, judge_server, tmp_path, capsys
):
    judge_server.control(verdict="reasoning", script=["ok"] * 3, always="400")
    patience = ["--max-concurrency", "1", "--breaker-failures", "4"]
    assert main([*command, *patience]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "refused the rows of 4 different findings in a row (last: HTTP status 400" in error
    assert "refused" not in (tmp_path / "out" / JOURNAL).read_text()
    judge_server.control(verdict="reasoning")
    assert main(command) == 0
    assert "refused" not in files(tmp_path / "out")[2]["rejects"]


def test_no_sampling_is_left_to_the_server(command, judge_server):
    assert main([*command, "--limit", "1", "--extra-body", '{"top_p": 0.95, "min_p": null}']) == 0
    body = judge_server.seen()["bodies"][0]
    neutral = {"top_k": -1, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
    assert {key: body[key] for key in neutral} == neutral
    assert body["top_p"] == 0.95
    assert "min_p" not in body


def test_a_field_that_the_server_does_not_take_ends_the_run_and_rejects_nothing(
    command, judge_server, tmp_path, capsys
):
    judge_server.control(verdict="reasoning", unknown=["top_k"])
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert '--extra-body {"top_k": null}' in error
    assert "refused" not in (tmp_path / "out" / JOURNAL).read_text()


def test_a_reply_that_is_all_reasoning_is_named(command, judge_server, capsys):
    judge_server.control(verdict="reasoning", always="only_thinks")
    options = ["--attempts", "1", "--breaker-failures", "2"]
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "without its reasoning parser" in error


def test_a_wrong_key_ends_the_run_with_one_line(command, judge_server, capsys):
    judge_server.control(verdict="reasoning", always="401")
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "HTTP status 401" in error
    assert "--api-key-env" in error


def lines(out):
    path = out / JOURNAL
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_stopped_run_goes_on_where_it_was(command, judge_server, phantom, tmp_path, how, code):
    out = tmp_path / "out"
    judge_server.control(verdict="reasoning", delay_s=0.1)
    program = [sys.executable, "-m", "data_prep.synthesize", *command, "--max-concurrency", "2"]
    with subprocess.Popen(program, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while lines(out) < 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, how)
        assert process.wait(60) == code
    assert not (out / "synthesis.json").exists()
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"index": 3, "reas')  # as a write that was cut off would leave it
    done = lines(out) - 2
    assert done >= 10
    judge_server.control(verdict="reasoning")
    assert main(command) == 0
    kept, rejects, report = files(out)
    assert len(kept) + len(rejects) == len(source_rows(phantom)) == report["rows"]["source"]
    in_journal = [json.loads(line) for line in (out / JOURNAL).read_text().splitlines()]
    assert sorted(e["index"] for e in in_journal if "index" in e) == list(
        range(len(kept + rejects))
    )
    # Rows that were done are not asked for again.
    asked_before = sum(1 for e in in_journal[2 : 2 + done] if e.get("tries"))
    assert judge_server.seen()["requests"] == len(kept) - asked_before


def test_a_finished_run_asks_nothing_again(command, judge_server, tmp_path):
    assert main(command) == 0
    first = (tmp_path / "out" / "data" / "train-00000-of-00001.parquet").read_bytes()
    judge_server.control(verdict="reasoning")
    assert main(command) == 0
    assert judge_server.seen()["requests"] == 0
    assert (tmp_path / "out" / "data" / "train-00000-of-00001.parquet").read_bytes() == first


def test_a_second_run_into_a_folder_is_refused_before_anything_is_sent(
    command, judge_server, tmp_path, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    with alone_in(out):
        assert main(command) == 2
    assert f"{out}: process {os.getpid()} on " in capsys.readouterr().err
    assert judge_server.seen()["requests"] == 0
    assert not (out / JOURNAL).exists()


def test_no_row_gets_the_reasoning_of_another(tmp_path):
    with closing(Journal(tmp_path, {})) as journal:
        for index in range(3):
            journal.add(Outcome(index, f"reasoning {index}"))
        assert journal.outcome(1).reasoning == "reasoning 1"
        for offset in (journal._offsets[2], journal._offsets[1] + 5):
            journal._offsets[1] = offset
            with pytest.raises(InputError, match="row 1 is not where it was"):
                journal.outcome(1)
    with closing(Journal(tmp_path, {})) as journal:
        assert journal.outcome(1).reasoning == "reasoning 1"


def test_rows_of_different_runs_are_not_mixed(command, capsys):
    assert main([*command, "--limit", "4"]) == 0
    assert main([*command, "--temperature", "0.1"]) == 2
    assert "another temperature" in capsys.readouterr().err
    assert main([*command, "--max-concurrency", "3"]) == 0, "patience may change"


def test_costs_and_rates_are_those_of_the_server(command, judge_server, tmp_path):
    assert main([*command, "--prices", "2", "10", "--limit", "8"]) == 0
    _, _, report = files(tmp_path / "out")
    assert report["tokens"]["read"] == 100 * report["replies"]
    assert report["tokens"]["written"] > 0
    wanted = (report["tokens"]["read"] * 2 + report["tokens"]["written"] * 10) / 1e6
    assert report["cost"] == pytest.approx(wanted, abs=1e-4)
    assert report["rows_per_hour"] > 0
    assert report["rows"]["left_out"] == report["rows"]["source"] - 8


@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "of patients"])
def test_patients_pictures_stay_patients_with_a_synthesized_reasoning(
    command, judge_server, tmp_path, drawn
):
    source = tmp_path / "source"
    assert phantom_main(["--out", str(source), "--images", "4", "--workers", "1"]) == 0
    (file,) = (source / "data").glob("*.parquet")
    if not drawn:
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    command[1], command[3] = str(source), str(source / "findings.parquet")
    assert main(command) == 0
    options = ["--source", str(tmp_path / "out"), "--images", str(source / "files")]
    ready = tmp_path / "ready"
    assert thinkvg_main([*options, "--out", str(ready), "--workers", "1"]) == 0
    assert "language model" in read_metadata(ready / "train.parquet")["notice"]
    assert is_synthetic(ready / "train.parquet") == drawn


def test_a_row_without_findings_is_rejected(command, phantom, tmp_path):
    table = pq.read_table(phantom / "findings.parquet")
    pq.write_table(table.slice(1), tmp_path / "fewer.parquet")
    command[3] = str(tmp_path / "fewer.parquet")
    assert main(command) == 0
    missing = table["image_path"][0].as_py()
    _, rejects, report = files(tmp_path / "out")
    without = [json.loads(r["row"]) for r in rejects if r["reason"] == "no_findings"]
    assert report["rejects"]["no_findings"] == len(without) > 0
    assert missing.lstrip("/") in {row["image_path"] for row in without}


WRONG = [
    (["--base-url", "http://example.com/v1"], "--base-url: example.com is not this machine"),
    (["--base-url", "ftp://x"], "--base-url is 'ftp://x', not an address"),
    (["--source", "nowhere"], "--source nowhere does not exist"),
    (["--findings", "nowhere"], "--findings nowhere does not exist"),
    (["--tries", "0"], "--tries is 0"),
    (["--extra-body", "{top_k: 1}"], "--extra-body is not JSON"),
    (["--extra-body", "[]"], "--extra-body is [], not an object"),
    (["--extra-body", '{"seed": 1}'], "--extra-body.seed cannot be set here"),
    (["--least-words", "9", "--most-words", "3"], "--most-words 3 is less than"),
    (["--prompt", "nowhere"], "--prompt nowhere does not read"),
    (["--api-key-env", "NO_SUCH_VARIABLE"], "--api-key-env: the variable NO_SUCH_VARIABLE"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_option_is_one_line_before_anything_is_sent(
    command, judge_server, capsys, options, message
):
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert judge_server.seen()["requests"] == 0


def test_a_trusted_host_is_taken(command, capsys):
    options = ["--base-url", "http://no-such-host.invalid:1/v1", "--attempts", "1"]
    assert main([*command, *options, "--trusted-hosts", "no-such-host.invalid"]) == 2
    assert "no connection" in capsys.readouterr().err


def test_the_source_is_not_overwritten(command, tmp_path, capsys):
    assert main(command) == 0
    out = tmp_path / "out"
    (file,) = (out / "data").glob("*.parquet")
    before = file.read_bytes()
    assert main([*command, "--source", str(out)]) == 2
    assert f"--out {out} would overwrite the source" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_a_smaller_limit_keeps_what_is_written(command, tmp_path):
    assert main([*command, "--limit", "12"]) == 0
    before = files(tmp_path / "out")
    assert main([*command, "--limit", "5"]) == 0
    kept, rejects, report = files(tmp_path / "out")
    assert (kept, rejects) == before[:2]
    assert report["rows"] == before[2]["rows"]
