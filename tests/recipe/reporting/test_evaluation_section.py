"""The report's section on controls, made from the metrics that an evaluation wrote."""

import json

import pytest

from recipe.errors import InputError
from recipe.evaluation.predictions import read_predictions
from recipe.evaluation.questions import read_questions
from recipe.evaluation.results import Evaluated, results
from recipe.reporting.evaluation import evaluation_section
from recipe.reporting.page import render_page
from recipe.reporting.run_folder import read_run


@pytest.fixture
def run(make_run):
    """A run whose GRPO model was evaluated with the SFT model and a blank image beside it."""
    folder = make_run()
    sft, grpo = (read_predictions(folder / "eval" / m / "greedy.jsonl") for m in ("sft", "grpo"))
    sampled = read_predictions(folder / "eval" / "grpo" / "sampled.jsonl")
    model = Evaluated(grpo, sampled, {"blank": grpo}, {"SFT": sft})
    found = results(model, read_questions(folder / "data" / "train.parquet"))
    (folder / "eval" / "grpo" / "metrics.json").write_text(json.dumps(found))
    return folder


def test_the_section_has_controls_regions_and_a_verdict(run):
    html = str(evaluation_section(run))
    assert "A-score: no better than majority answer; blank image." in html
    assert "GRPO less the others" in html
    assert "By region" in html
    assert "pass@2" in html
    # IoU 80/90 for GRPO, 60/90 for SFT: the difference is the same for all questions.
    assert "+0.222 [+0.222, +0.222]" in html
    assert html in render_page(read_run(run), 4)


def test_a_run_without_controls_has_no_section(make_run):
    folder = make_run()
    assert evaluation_section(folder) == ""
    (folder / "eval" / "sft" / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"metrics\.json: not JSON"):
        evaluation_section(folder)
