import copy
import json

import pytest

from data_prep.program import InputError
from recipe.evaluate.predictions import score_predictions
from recipe.evaluate.results import build_summary, read_summary, write_summary

RUN = {
    "seed": 1,
    "versions": {"verl": "0.9.1"},
    "wall_seconds": {"sft": 220.5},
    "grpo_steps": 150,
    "rollouts": 9600,
}


@pytest.fixture
def parts(make_prediction, make_truth, write_parquet):
    """Four test questions; SFT overlaps by 0.6, GRPO by 0.8."""

    def model(height):
        greedy = [make_prediction(i, height=height) for i in range(4)]
        sampled = [make_prediction(i, height=height, sample=k) for i in range(4) for k in (0, 1)]
        return score_predictions(greedy), score_predictions(sampled)

    train = write_parquet("train", [make_truth() for _ in range(3)])
    return model(60), model(80), train, write_parquet("test", [make_truth() for _ in range(4)])


def test_the_summary_has_exactly_the_documented_keys(parts):
    summary = build_summary(*parts, RUN)
    metrics = [
        "reward",
        "reward_sampled",
        "a_score",
        "v_score",
        "iou_50",
        "iou_75",
        "format",
        "n",
    ]
    assert list(summary) == ["models", "baselines", "gain", "run"]
    assert list(summary["models"]) == ["sft", "grpo"]
    assert [list(model) for model in summary["models"].values()] == [metrics, metrics]
    assert {name: list(values) for name, values in summary["baselines"].items()} == {
        "majority": ["a_score"],
        "region_prior": ["v_score", "iou_75"],
    }
    assert list(summary["gain"]) == ["reward", "reward_sampled", "a_score", "v_score"]
    assert all(list(gain) == ["mean", "ci95"] for gain in summary["gain"].values())
    assert summary["run"] == RUN


def test_the_numbers_are_those_of_the_models(parts):
    summary = build_summary(*parts, RUN)
    assert summary["models"]["sft"]["v_score"] == pytest.approx(0.6)
    assert summary["models"]["grpo"]["v_score"] == pytest.approx(0.8)
    assert summary["gain"]["v_score"]["mean"] == pytest.approx(0.2)
    assert summary["baselines"]["region_prior"]["v_score"] == pytest.approx(1.0)
    assert summary["models"]["sft"]["n"] == 4


def test_a_summary_is_read_as_it_was_written(parts, tmp_path):
    summary = build_summary(*parts, RUN)
    write_summary(tmp_path / "out" / "summary.json", summary)
    assert read_summary(tmp_path / "out" / "summary.json") == summary


def test_predictions_must_cover_the_test_split(parts, write_parquet, make_truth):
    sft, grpo, train, _ = parts
    longer = write_parquet("longer", [make_truth() for _ in range(6)])
    with pytest.raises(InputError, match=r"SFT greedy predictions: 2 questions of .*longer\.parq"):
        build_summary(sft, grpo, train, longer, RUN)


def _change(path, value):
    def change(summary):
        *parents, last = path.split("/")
        for key in parents:
            summary = summary[key]
        if value is KeyError:
            del summary[last]
        else:
            summary[last] = value

    return change


BROKEN = [
    (_change("gain", KeyError), "gain: Field required"),
    (_change("models/sft/a_score", KeyError), "models.sft.a_score: Field required"),
    (_change("models/sft/extra", 1), "models.sft.extra: Extra inputs are not permitted"),
    (_change("models/grpo/format", 1.2), "models.grpo.format: Input should be less than or equal"),
    (_change("models/grpo/format", "1"), "models.grpo.format: Input should be a valid number"),
    (_change("models/grpo/format", float("nan")), "models.grpo.format: Input should be a finite"),
    (_change("models/grpo/n", 4.0), "models.grpo.n: Input should be a valid integer"),
    (_change("baselines/majority", 0.5), "baselines.majority: Input should be a valid dictionary"),
    (_change("gain/reward/ci95", [0.2, 0.1]), "gain.reward: ci95 has its low end above"),
    (_change("gain/reward/ci95", [0.2]), "gain.reward.ci95: List should have at least 2 items"),
    (_change("gain/v_score/mean", 0.5), "gain.v_score.mean is not GRPO minus SFT"),
    (_change("run/rollouts", None), "run.rollouts: Input should be a valid integer"),
    (_change("run/versions", []), "run.versions: Input should be a valid dictionary"),
    (_change("run/wall_seconds/sft", -1), "run.wall_seconds.sft: Input should be greater than"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_broken_summary_is_neither_written_nor_read(parts, tmp_path, change, message):
    path = tmp_path / "summary.json"
    summary = copy.deepcopy(build_summary(*parts, RUN))
    change(summary)
    with pytest.raises(InputError, match=message):
        write_summary(path, summary)
    assert not path.exists()
    path.write_text(json.dumps(summary))
    with pytest.raises(InputError, match=rf"summary\.json: .*{message}"):
        read_summary(path)


def test_a_run_with_other_keys_is_refused(parts):
    with pytest.raises(InputError, match="run: rollouts: Field required"):
        build_summary(*parts, {key: value for key, value in RUN.items() if key != "rollouts"})


def test_a_missing_file_and_one_that_is_not_json_are_named(tmp_path):
    with pytest.raises(InputError, match=r"summary\.json: no such summary"):
        read_summary(tmp_path / "summary.json")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary\.json: not JSON"):
        read_summary(tmp_path / "summary.json")
