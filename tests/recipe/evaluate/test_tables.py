import pandas as pd
import pytest

from recipe.evaluate.metrics import metrics_table
from recipe.evaluate.predictions import score_predictions
from recipe.evaluate.tables import cell, comparison, markdown


@pytest.fixture
def tables(make_prediction):
    def table(height):
        return metrics_table(score_predictions([make_prediction(0, height=height)]))

    return {"SFT": table(60), "GRPO": table(80)}


@pytest.fixture
def prior():
    columns = {"v_score": 0.5, "iou_50": 0.25, "iou_75": 0.125, "n": 1}
    return pd.DataFrame([columns, columns], index=["closed", "overall"])


def test_models_and_baselines_stand_side_by_side(tables, prior):
    majority = pd.DataFrame({"a_score": [0.25, 0.25]}, index=["closed", "overall"])
    metrics = comparison(tables, tables, {"majority answer": majority, "region prior": prior})
    assert {
        name: column["overall"] for name, column in metrics["V-score"].items()
    } == pytest.approx({"SFT": 0.6, "GRPO": 0.8, "region prior": 0.5})
    assert list(metrics["V-score"]["SFT"].index) == ["closed", "overall"]
    assert list(metrics["A-score"]) == ["SFT", "GRPO", "majority answer"]
    assert list(metrics["Reward (sampled)"]) == ["SFT", "GRPO"]
    assert list(metrics["Format"]) == ["SFT", "GRPO"]


def test_markdown_of_one_model(tables):
    reward = tables["SFT"].loc["overall", "reward"]
    lines = markdown(tables["SFT"]).splitlines()
    assert lines[0] == (
        "| question type | Reward | A-score | V-score | IoU > 0.5 | IoU > 0.75 | Format "
        "| Grounding of the reasoning | Alignment | Characters | Questions |"
    )
    assert lines[1].count("---:") == 10
    shared = f"| overall | {reward:.3f} | 1.000 | 0.600 | 1.000 | 0.000 | 1.000 | "
    assert lines[3].startswith(shared)
    assert lines[3].endswith("| 139 | 1 |")


def test_a_comparison_marks_what_a_baseline_lacks(tables, prior):
    metrics = comparison(tables, {}, {"region prior": prior.drop("closed")})["V-score"]
    assert list(metrics) == ["SFT", "GRPO", "region prior"]
    closed, overall = (
        [cell(column[kind], "V-score") for column in metrics.values()]
        for kind in ("closed", "overall")
    )
    assert closed == ["0.600", "0.800", "—"]
    assert overall == ["0.600", "0.800", "0.500"]
