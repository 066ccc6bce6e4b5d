import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe.evaluate.metrics import direction
from recipe.report.__main__ import main
from recipe.report.page import headline_rows, headline_sentences

SCRIPT = "<script>alert('x')</script>"
VOID = {"meta", "input", "link", "br", "image", "rect", "path", "use", "img"}


class Page(HTMLParser):
    """Ids, tags and visible text of a page; fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.tags, self.text, self.hrefs = [], [], [], "", []
        self.json, self.data = {}, None
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if "id" in attributes and tag in ("section", "div"):
            self.ids.append(attributes["id"])
        if attributes.get("type") == "application/json":
            self.data = attributes["id"]
        self.hrefs += [value for name, value in attrs if name in ("href", "xlink:href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.data:
            self.json[self.data] = json.loads(data)
            self.data = None
        self.text += data

    @property
    def cases(self):
        return self.json["case-data"]["cases"]


def report(run, *options):
    assert main([str(run), *options]) == 0
    return (run / "report.html").read_text(encoding="utf-8")


def test_a_whole_run_gives_every_part(make_run):
    page = Page(report(make_run()))
    assert page.ids == [
        *("results", "result", "types", "training", "stage-1", "stage-2", "cases", "run")
    ]
    assert len(page.cases) == len(page.json["image-data"]) == 16
    assert "Not in this run" not in page.text


def test_images_that_questions_share_are_in_the_page_once(make_run):
    run = make_run()
    table = pq.read_table(run / "data" / "test.parquet")
    rows = table.to_pylist()
    for row in rows[8:]:
        row["images"] = rows[0]["images"]
    changed = pa.Table.from_pylist(rows).replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, run / "data" / "test.parquet")
    page = Page(report(run))
    assert len(page.json["image-data"]) == 8
    assert [case["image"] for case in page.cases] == [*range(8), *[0] * 8]


def test_the_page_needs_nothing_from_outside(make_run):
    text = report(make_run())
    page = Page(text)
    assert all(href.startswith("#") or href == "data:," for href in page.hrefs)
    assert "iframe" not in page.tags
    assert "://" not in text
    assert not re.search(r"url\((?!#)", text)
    # What a text of the run might smuggle in, the browser refuses to load.
    assert "default-src 'none'; img-src data:;" in text


def test_images_are_embedded_whole(make_run):
    for uri in Page(report(make_run())).json["image-data"]:
        data = base64.b64decode(uri.removeprefix("data:image/webp;base64,"), validate=True)
        assert data[:4] == b"RIFF"
        assert data[8:12] == b"WEBP"


def test_images_of_patients_are_left_out_unless_asked_for(make_run, tmp_path):
    page = Page(report(make_run(synthetic=False)))
    assert page.json["image-data"] == []
    assert {case["image"] for case in page.cases} == {-1}
    assert "--images all" in page.cases[0]["no_image"]
    page = Page(report(tmp_path / "run", "--images", "all"))
    assert len(page.json["image-data"]) == 16
    assert "This page holds images and texts" in " ".join(page.text.split())


def test_images_of_phantoms_can_be_left_out(make_run):
    assert Page(report(make_run(), "--images", "none")).json["image-data"] == []


def test_all_text_of_models_and_data_is_escaped(make_run):
    text = report(make_run())
    assert "<script>" not in text
    assert text.count("</script>") == text.count("<script ") == 4
    case = next(case for case in Page(text).cases if case["id"] == "q3")
    assert case["question"] == "Question number 3, x < y & z?"
    assert case["answers"]["sft"]["answer"] == f"Yes {SCRIPT}"


def test_phantoms_are_called_synthetic_and_patients_are_not(make_run, tmp_path):
    assert "Synthetic phantom data" in report(make_run())
    shutil.rmtree(tmp_path / "run")
    text = report(make_run(synthetic=False))
    assert "Synthetic phantom data" not in text
    assert "May show patient data" in text


def forget_in_metrics(run):
    for file in run.glob("eval/*/metrics.json"):
        metrics = json.loads(file.read_text())
        metrics.pop("synthetic")
        file.write_text(json.dumps(metrics))


def forget_in_data(run):
    file = run / "data" / "train.parquet"
    pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)


def train_on_patients(run):
    """Let the run's configuration name a file that says nothing, beside data that is synthetic."""
    pq.write_table(pa.table({"prompt": ["Is it?"]}), run / "patients.parquet")
    (run / "grpo" / ".hydra").mkdir()
    text = json.dumps({"data": {"train_files": str(run / "patients.parquet"), "val_files": None}})
    (run / "grpo" / ".hydra" / "config.yaml").write_text(text)


def lose_metrics(run):
    for file in run.glob("eval/*/metrics.json"):
        file.unlink()


@pytest.mark.parametrize(
    "change", [forget_in_metrics, forget_in_data, train_on_patients, lose_metrics]
)
def test_images_stay_out_unless_all_that_the_run_names_is_synthetic(make_run, change):
    run = make_run()
    change(run)
    page = Page(report(run))
    assert page.json["image-data"] == []
    assert "May show patient data" in page.text


def test_an_evaluation_alone_says_itself_whether_it_is_synthetic(make_run, tmp_path):
    run = make_run()
    shutil.rmtree(run / "data")
    assert "Synthetic phantom data" in report(run)
    shutil.rmtree(run)
    run = make_run(synthetic=False)
    shutil.rmtree(run / "data")
    assert "May show patient data" in report(run)


def test_numbers_of_the_summary_are_on_the_page(make_run):
    run = make_run()
    summary = json.loads((run / "summary.json").read_text())
    text = report(run)
    for model in summary["models"].values():
        assert f"{model['v_score']:.3f}" in text
    low, high = summary["gain"]["v_score"]["ci95"]
    assert f"({low:+.3f} to {high:+.3f})" in text
    assert "region prior" in text


PARTS = [
    ("summary.json", "result"),
    ("sft", "stage-2"),
    ("grpo", "stage-2"),
    ("eval", "cases"),
    ("data", None),
]


@pytest.mark.parametrize(("part", "section"), PARTS)
def test_a_missing_part_is_named_and_the_rest_is_shown(make_run, part, section):
    run = make_run()
    gone = run / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    page = Page(report(run))
    assert section not in page.ids
    assert "missing" in page.ids
    assert part in page.text[page.text.index("Not in this run\n") :]
    assert {"types", "cases", "stage-1"} - {section} - ({"types"} if part == "eval" else set()) <= {
        *page.ids
    }


def test_a_folder_with_only_metrics_gives_curves(make_run, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    shutil.copy(make_run() / "grpo" / "metrics.jsonl", folder / "metrics.jsonl")
    page = Page(report(folder))
    assert "Total reward" in page.text
    assert "Response length" in page.text
    assert "Origin of the data not recorded" in page.text
    assert "actor/kl_loss" in page.text  # named as not logged
    assert "sft/metrics.jsonl" not in page.text


def test_one_model_alone_is_shown(make_run):
    run = make_run()
    shutil.rmtree(run / "eval" / "grpo")
    (run / "summary.json").unlink()
    page = Page(report(run))
    assert len(page.cases) == 16
    assert page.json["case-data"]["models"] == {"sft": "SFT"}
    assert "GRPO, reasoning" not in page.text


def test_evaluations_and_data_can_lie_elsewhere(make_run, tmp_path):
    run = make_run()
    away = tmp_path / "away"
    shutil.move(run / "eval", away / "eval")
    shutil.move(run / "data", away / "data")
    (run / "summary.json").unlink()
    named = [f"--evaluation={title}={away / 'eval' / folder}" for title, folder in NAMED]
    page = Page(report(run, *named, "--data", str(away / "data")))
    titles = page.json["case-data"]["models"]
    assert list(titles.values()) == [title for title, _ in NAMED]
    assert len(page.json["image-data"]) == 16
    for case in page.cases:
        scores = [case["answers"][key]["parts"]["mean_iou"] for key in titles]
        assert scores[0] == scores[2] > scores[1]
    assert "eval/sft" not in page.text


NAMED = [("GRPO, step 80", "grpo"), ("SFT", "sft"), ("<b>again</b>", "grpo")]
MISNAMED = [
    (["--evaluation", "x"], "--evaluation x: give TITLE=DIR"),
    (["--evaluation", "A=nowhere"], "nowhere: no greedy.jsonl"),
    ([f"--evaluation={n}=eval/sft" for n in "ABCDE"], "5 evaluations are given: the page takes 4"),
]


@pytest.mark.parametrize(("options", "message"), MISNAMED)
def test_a_misnamed_evaluation_is_one_line(make_run, capsys, options, message):
    assert main([str(make_run()), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_number_of_cases_can_be_chosen(make_run):
    run = make_run()
    page = Page(report(run, "--cases", "4"))
    assert len(page.cases) == 4
    assert "12 more\nwere left out" in page.text
    assert "cases" not in Page(report(run, "--cases", "0")).ids


def test_the_page_goes_where_output_says(make_run, tmp_path, capsys):
    target = tmp_path / "deep" / "page.html"
    assert main([str(make_run()), "--output", str(target)]) == 0
    assert target.read_text().startswith("<!doctype html>")
    assert capsys.readouterr().out == f"{target}\n"


def _break(run, name):
    if name == "no folder":
        return run / "nowhere"
    if name == "nothing usable":
        (run / "empty").mkdir()
        return run / "empty"
    (run / name).write_text("{\n")
    return run


BROKEN = [
    ("no folder", r"nowhere: no such run folder"),
    ("nothing usable", r"empty: nothing to report on"),
    ("summary.json", r"summary\.json: not JSON"),
    ("grpo/metrics.jsonl", r"metrics\.jsonl:1: not JSON"),
    ("eval/sft/greedy.jsonl", r"greedy\.jsonl:1: Invalid JSON"),
    ("data/test.parquet", r"test\.parquet: not a readable parquet file"),
]


@pytest.mark.parametrize(("fault", "message"), BROKEN)
def test_a_fault_is_one_line_and_exit_code_2(make_run, capsys, fault, message):
    run = _break(make_run(), fault)
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (run / "report.html").exists()


def test_the_command_works_as_a_module(make_run):
    done = subprocess.run(
        [sys.executable, "-m", "recipe.report", str(make_run() / "nowhere")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no such run folder" in done.stderr


VERDICTS = [
    ([0.01, 0.2], "higher"),
    ([-0.2, -0.01], "lower"),
    ([-0.1, 0.1], "no clear difference"),
    ([0.0, 0.1], "no clear difference"),  # zero is in the interval
]


@pytest.mark.parametrize(("interval", "expected"), VERDICTS)
def test_a_verdict_is_given_only_where_the_interval_leaves_out_zero(interval, expected):
    assert direction({"mean": sum(interval) / 2, "ci95": interval}) == expected


def test_sentences_do_not_claim_more_than_the_numbers(make_run):
    summary = json.loads((make_run() / "summary.json").read_text())
    summary["gain"]["reward"] = {"mean": -0.1, "ci95": [-0.2, -0.05]}
    summary["baselines"]["majority"]["a_score"] = 0.99
    said = " ".join(headline_sentences(summary))
    assert "lowered that of greedy ones" in said
    assert "is not above the majority answer baseline's 0.990" in said
    assert headline_rows(summary)[0]["gain"] == "−0.100 (−0.200 to −0.050)"
