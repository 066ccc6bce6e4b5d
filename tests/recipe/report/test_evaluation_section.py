"""The report's section on controls, made from the metrics that an evaluation wrote."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from data_prep.program import InputError
from recipe.evaluate.metrics import METHOD
from recipe.program import compose_config
from recipe.report.__main__ import main
from recipe.report.page import evaluations, render_page
from recipe.report.run_folder import read_run

README = Path(__file__).parents[3] / "README.md"


@pytest.fixture
def run(make_run):
    """A demo's folder; its GRPO model was evaluated with the SFT model beside it."""
    return make_run()


@pytest.fixture
def real_run(run, tmp_path, monkeypatch):
    """The folders of a real run, as the README names them, in the current folder."""
    monkeypatch.chdir(tmp_path)
    evaluation = Path("outputs/evaluation-grpo")
    shutil.copytree(run / "eval" / "grpo", evaluation)
    shutil.copytree(run / "eval" / "sft", "outputs/evaluation-sft")
    Path("outputs/grpo").mkdir()
    shutil.copy(run / "grpo" / "metrics.jsonl", "outputs/grpo")
    shutil.copytree(run / "data", "data/thinkvg-qwen2_5_vl")
    shutil.rmtree(run)
    (evaluation / ".hydra").mkdir()
    overrides = ["model=qwen2_5_vl_7b", "data.dir=data/thinkvg-qwen2_5_vl", "model.path=outputs/x"]
    (evaluation / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    return evaluation


def readme_command():
    """The arguments of the README's report of a real run."""
    text = README.read_text(encoding="utf-8").replace("\\\n", " ")
    [line] = [line for line in text.splitlines() if line.startswith("python -m recipe.report out")]
    return shlex.split(line)[3:]


def estimate(mean):
    return {"mean": mean, "ci95": [mean - 0.1, mean + 0.1]}


def page_of(arguments):
    assert main(arguments) == 0
    return Path(arguments[0], "report.html").read_text(encoding="utf-8")


def test_the_section_has_controls_regions_and_a_verdict(run):
    html = render_page(read_run(run), 4)
    assert "A-score: no better than majority answer; blank image; shuffled images." in html
    assert "GRPO less the others" in html
    assert "By region" in html
    assert "pass@2" in html
    # IoU 80/90 for GRPO, 60/90 for SFT: the difference is the same for all questions.
    assert "+0.222 [+0.222, +0.222]" in html


def test_an_external_set_has_its_metrics_and_what_the_model_is_above(run):
    file = run / "eval" / "grpo" / "metrics.json"
    metrics = json.loads(file.read_text())
    rows = {"model": {"ap_50": estimate(0.5)}, "blank image": {"ap_50": estimate(0.125)}}
    less = {"blank image": {"ap_50": estimate(0.375)}}
    metrics["sets"] = {"ms_cxr": {"questions": 9, "patients": 4, "rows": rows, "less": less}}
    file.write_text(json.dumps(metrics))
    page = page_of([str(run)])
    for part in ("Set ms_cxr, 9 questions", "Set ms_cxr, boxes: GRPO less the others", "+0.375 ["):
        assert part in page, part


def test_the_readmes_command_shows_all_of_a_real_run(real_run):
    page = page_of(readme_command())
    assert "GRPO beside baselines and controls" in page
    for part in (
        *("majority answer", "region prior, region told", "blank image", "shuffled images"),
        *("By region", "left lung", "pass@2", "majority vote", "+0.222 [+0.222, +0.222]"),
    ):
        assert part in page, part
    assert "Not in this run" not in page


def test_every_interval_on_a_page_is_said_to_be_the_same(run):
    page = page_of([str(run)])
    assert page.count(METHOD) == 2
    assert page.count("bootstrap") == 2


LACKS = [
    ("metrics.json", "intervals, baselines, controls", "predictions=outputs/evaluation-grpo"),
    ("sampled.jsonl", "pass@k", "sampling.samples=4"),
    ("blank.jsonl", "control “blank image”", "controls=[blank,shuffled]"),
    ("shuffled.jsonl", "control “shuffled images”", "controls=[blank,shuffled]"),
]


@pytest.mark.parametrize(("name", "shows", "override"), LACKS)
def test_what_an_evaluation_lacks_is_named_with_its_command(real_run, name, shows, override):
    (real_run / name).unlink()
    if name != "metrics.json":  # as recipe.evaluate writes it without these predictions
        metrics = json.loads((real_run / "metrics.json").read_text())
        metrics["controls"].pop(f"{name.split('.')[0]} image", None)
        metrics["controls"].pop(f"{name.split('.')[0]} images", None)
        metrics["samples"] = None if name == "sampled.jsonl" else metrics["samples"]
        (real_run / "metrics.json").write_text(json.dumps(metrics))
    [missing] = read_run(
        Path("outputs/grpo"), {"GRPO": real_run}, Path("data/thinkvg-qwen2_5_vl")
    ).missing
    assert missing.path == f"outputs/evaluation-grpo/{name}"
    assert shows in missing.shows
    words = shlex.split(missing.command)
    assert words[:3] == ["python", "-m", "recipe.evaluate"]
    assert {override, "out=outputs/evaluation-grpo", "model=qwen2_5_vl_7b"} <= {*words}
    config = compose_config("evaluate", words[3:])
    assert config.model.path == "outputs/x"
    page = page_of(readme_command())
    assert f"<code>{missing.path}</code>" in page
    assert override in page


def test_without_a_record_the_command_has_words_to_fill_in(real_run):
    shutil.rmtree(real_run / ".hydra")
    (real_run / "blank.jsonl").unlink()
    (real_run / "metrics.json").write_text("{}")  # of an older version
    run = read_run(Path("outputs/grpo"), {"GRPO": real_run}, Path("data/thinkvg-qwen2_5_vl"))
    metrics, blank = run.missing
    assert metrics.path.endswith("metrics.json")
    assert "model.path=MODEL" not in metrics.command
    assert "model.path=MODEL" in blank.command
    assert "data.dir=data/thinkvg-qwen2_5_vl" in blank.command


def test_a_demo_lacks_what_the_demo_would_make(run):
    shutil.rmtree(run / "eval" / "sft")
    (run / "sft" / "metrics.jsonl").unlink()
    (run / "summary.json").unlink()
    commands = {Path(part.path).name: part.command for part in read_run(run).missing}
    assert commands["summary.json"] == commands["metrics.jsonl"]
    assert commands["summary.json"] == f"python -m phantom.demo --out {run}"
    assert commands["greedy.jsonl"].startswith("python -m recipe.evaluate ")


def test_a_run_without_metrics_has_no_section(run):
    for model in ("sft", "grpo"):
        (run / "eval" / model / "metrics.json").unlink()
    assert evaluations(read_run(run)) == []
    assert "beside baselines and controls" not in render_page(read_run(run), 4)
    (run / "eval" / "sft" / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"metrics\.json: not JSON"):
        read_run(run)
