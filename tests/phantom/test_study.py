"""The study's plan, its numbers and its page; the runs themselves are engines' work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from data_prep.program import InputError, encode_metadata
from phantom.study.__main__ import _options, _output_paths, run_all
from phantom.study.plan import ARMS, BY_NAME, QUICK_ARMS, Size, StudyPlan
from phantom.study.report import history, write_report
from phantom.study.results import (
    note,
    over_seeds,
    read_budget,
    result_file,
    student_t,
    two_way_bootstrap,
    verdict,
    write_budget,
    write_result,
)
from phantom.study.shuffled import convert
from recipe.program import FRACTIONS, compose_config, fraction_file
from reward.ground_truth import QUESTION_TYPES

SIZE = Size(images=10, sft_steps=2, grpo_steps=5)
METADATA = encode_metadata({"split": "train"}, synthetic=True)


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    return StudyPlan(tmp_path / "work", SIZE)


def test_every_stage_has_a_command_that_composes(plan: StudyPlan) -> None:
    for arm in ARMS:
        for stage in plan.stages(arm, seed=1):
            program, *overrides = stage.arguments
            if program in ("recipe.sft", "recipe.train", "recipe.evaluate"):
                config = compose_config(program.removeprefix("recipe."), list(overrides))
                assert config.seed == 1
                folder = "data-shuffled" if arm.shuffled else "data"
                assert Path(config.data.dir).name == folder
                # an evaluation of a model with reasoning takes it from the run
                assert config.data.reasoning is (
                    arm.reasoning
                    if program != "recipe.evaluate"
                    else (None if arm.reasoning else False)
                )
                if program == "recipe.train":
                    assert config.data.fraction == (arm.prompts or arm.fraction)
                    by_segment = config.algorithm.adv_estimator == "thinkvg_segments"
                    assert by_segment == (arm.ablation == "segments")
                if program == "recipe.sft":
                    assert config.data.fraction == arm.fraction


def test_models_are_shared_and_outputs_are_not(plan: StudyPlan) -> None:
    stages = {stage.name: stage for arm in ARMS for stage in plan.stages(arm, seed=0)}
    per_arm = [[stage.name for stage in plan.stages(arm, seed=0)] for arm in ARMS]
    # 7 SFT models (5 fractions, without reasoning, shuffled) for 19 arms.
    assert sum("-sft-" in name and "eval" not in name for name in stages) == 7
    assert len({str(stage.output) for stage in stages.values()}) == len(stages)
    dense = per_arm[[arm.name for arm in ARMS].index("dense-full")]
    paper = per_arm[[arm.name for arm in ARMS].index("paper-full")]
    assert [name for name in dense if name in paper] == dense[:3]
    # Another seed shares the data and nothing else.
    other = {stage.name for stage in plan.stages(BY_NAME["dense-full"], seed=1)}
    assert {*dense} & other == {"phantom", "data"}


def test_arms_without_reasoning_are_trained_without_it() -> None:
    plan = StudyPlan(Path("root"), SIZE)
    for name in ("sft-no_reasoning", "no_reasoning"):
        commands = [stage.arguments for stage in plan.stages(BY_NAME[name], seed=0)]
        programs = [command for command in commands if command[0].startswith("recipe.")]
        assert len(programs) >= 2
        assert all("data.reasoning=false" in command for command in programs)
    others = plan.stages(BY_NAME["dense-full"], seed=0)
    assert not any("data.reasoning=false" in stage.arguments for stage in others)


def test_shuffled_rows_keep_their_words_and_lose_their_picture(tmp_path: Path) -> None:
    rows = {
        "images": [[{"image": f"{i // 2}.jpg"}] for i in range(12)],
        "extra_info": [{"patient": f"p{i // 2}", "index": i} for i in range(12)],
        "prompt": [[{"role": "user", "content": str(i)}] for i in range(12)],
    }
    source = tmp_path / "data"
    source.mkdir()
    for name in ("train", "test"):
        pq.write_table(pa.table(rows), source / f"{name}.parquet")
    convert(source, tmp_path / "out")
    found = pq.read_table(tmp_path / "out" / "train.parquet").to_pydict()
    assert found["prompt"] == rows["prompt"]
    assert found["extra_info"] == rows["extra_info"]
    pictures = [images[0]["image"] for images in found["images"]]
    assert all(picture != f"{i // 2}.jpg" for i, picture in enumerate(pictures))
    assert sorted(pictures) == sorted(images[0]["image"] for images in rows["images"])
    assert pq.read_table(tmp_path / "out" / "test.parquet").to_pydict() == rows


def test_the_bootstrap_draws_seeds_and_patients() -> None:
    draw = np.random.default_rng(0)
    ids = [f"q{i}" for i in range(60)]
    patients = pd.Series([f"p{i // 4}" for i in range(60)], index=ids)
    values = [pd.Series(draw.uniform(size=60) + 0.2 * k, index=ids) for k in range(3)]
    found = two_way_bootstrap(values, patients)
    table = np.array(values).reshape(3, 15, 4).mean(axis=2)  # seeds x patients, equal sizes
    again = np.random.default_rng(5)
    means = [
        table[np.ix_(again.integers(0, 3, 3), again.integers(0, 15, 15))].mean()
        for _ in range(8000)
    ]
    assert found["mean"] == pytest.approx(table.mean())
    assert found["ci95"] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.012)
    assert two_way_bootstrap(values, pd.Series("p", index=ids))["ci95"] is None


def test_an_interval_over_seeds_is_the_wider_one() -> None:
    draw = np.random.default_rng(0)
    ids = [f"q{i}" for i in range(60)]
    patients = pd.Series([f"p{i // 4}" for i in range(60)], index=ids)
    values = [pd.Series(draw.uniform(size=60) + 0.2 * k, index=ids) for k in range(3)]
    # Seeds this far apart say less than their bootstrap: t's interval is the wider one.
    spread = stats.ttest_1samp([one.mean() for one in values], 0).confidence_interval()
    assert over_seeds(values, patients)["ci95"] == pytest.approx([spread.low, spread.high])
    # Seeds that agree by chance are not surer than the questions are.
    alike = [values[0]] * 3
    assert student_t([one.mean() for one in alike])["ci95"] == pytest.approx([values[0].mean()] * 2)
    assert over_seeds(alike, patients) == two_way_bootstrap(alike, patients)
    # Student's t over two seeds would be wider than any score.
    assert student_t([0.5, 0.6])["ci95"] is None
    for few in (values[:1], values[:2]):
        assert over_seeds(few, patients) == two_way_bootstrap(few, patients)


def test_other_questions_under_another_seed_are_refused() -> None:
    patients = pd.Series(["p0", "p1"], index=["a", "b"])
    with pytest.raises(InputError, match="same questions"):
        over_seeds([pd.Series([1.0, 0.0], index=["a", "c"])], patients)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.05, "better"),
        (-0.01, 0.05, "comparable"),
        (-0.05, 0.01, "inconclusive"),
        (-0.05, -0.03, "worse"),
    ],
)
def test_the_claim_goes_by_the_interval(low: float, high: float, said: str) -> None:
    assert verdict({"mean": (low + high) / 2, "ci95": [low, high]}) == said


def made_up(arm: str, seed: int, v_score: float) -> dict[str, Any]:
    """A result as a run leaves it, all questions alike."""
    count = 8
    curves = {name: [0.1, 0.2, 0.3, 0.4, 0.5] for name in ("score", "answer", "mean_iou")}
    return {
        "arm": arm,
        "seed": seed,
        "size": SIZE.as_dict(),
        "no_better_than": {"a_score": ["majority answer"] if seed else [], "v_score": []},
        "overall": {
            **{"a_score": 0.5, "v_score": v_score, "iou_75": 0.4, "reward": 0.6},
            **{"reward_sampled": 0.4 + v_score / 10, "format": 1.0},
        },
        "samples": {
            "overall": {key: {"mean": 0.5} for key in ("pass_at_1", "pass_at_2", "majority_vote")}
        },
        "intervals": {kind: {"a_score": {"mean": 0.5}} for kind in QUESTION_TYPES},
        "curves": curves if BY_NAME[arm].reward else {},
        "questions": {
            "id": [f"q{i}" for i in range(count)],
            "patient": [f"p{i // 2}" for i in range(count)],
            "a_score": [0.5] * count,
            "v_score": [v_score] * count,
            "reward": [0.6] * count,
            "iou_75": [0.4] * count,
        },
    }


@pytest.fixture
def results(tmp_path: Path, plan: StudyPlan) -> Path:
    folder = tmp_path / "results"
    scores = {"sft-full": 0.6, "paper-full": 0.61, "dense-full": 0.7, "dense-1of8": 0.595}
    scores["sft-1of4"] = 0.55
    for arm, score in scores.items():
        for seed in (0, 1):
            note(folder, "started", BY_NAME[arm], seed, plan)
            write_result(
                result_file(folder, BY_NAME[arm], seed), made_up(arm, seed, score + 0.01 * seed)
            )
            note(folder, "done", BY_NAME[arm], seed, plan)
    budget = {"rows": {"full": 16, "1of2": 8, "1of4": 4, "1of8": 2, "1of16": 1}}
    budget |= {"sft_samples": 32, "grpo_prompts": 80, "size": SIZE.as_dict()}
    (folder / "budget.json").write_text(json.dumps(budget))
    note(folder, "started", BY_NAME["rl-full"], 0, plan)
    note(folder, "failed", BY_NAME["rl-full"], 0, plan, why="StageFailed")
    return folder


def test_the_page_answers_with_the_numbers(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "results.md"
    write_report(results, page)
    text = page.read_text()
    assert "| SFT, all data |" in text
    assert "0.600 0.610" in text  # each seed's value
    assert "| SFT + GRPO, dense, all data *less* SFT, all data |" in text
    assert "+0.100 [+0.100, +0.100]; +0.100 +0.100 |" in text
    assert "+0.010; +0.010 +0.010 |" in text  # the sampled reward
    # 0.005 less than SFT on all data, and no more than 0.03: comparable.
    assert "-0.005 [-0.005, -0.005]; -0.005 -0.005: **comparable**" in text
    assert "- SFT, all data: A-score no better than majority answer (1 of 2 seeds)." in text
    assert "| 1/8 | 2 | 16.00 | 2 |" in text
    assert "SFT alone changes by this much from all of the data to 1/4: A-score +0.000" in text
    assert "| all | 16 | 2.00 | 16 |" in text
    short = text.split("## In short")[1].split("##")[0]
    assert (
        "- Does SFT + GRPO on 1/8 of the data reach SFT on all of it? A-score comparable (+0.000 "
        "[+0.000, +0.000]) (two seeds), V-score comparable (-0.005 [-0.005, -0.005]) (two seeds)"
        in short
    )
    assert "`dense` adds to SFT on all data: A-score no clear difference" in short
    assert "V-score better (+0.100 [+0.100, +0.100])" in short
    assert "V-score worse (-0.090 [-0.090, -0.090])" in short  # `paper` less `dense`
    assert "by question type, `dense`" not in short  # three seeds make an interval
    lines = text.split("Without a result:")[1].split("## In short")[0].split("\n")
    lacking = dict(line.removeprefix("- seed ").split(": ") for line in lines if line)
    assert "RL only, dense" in lacking["0, 1, 2"]
    assert "SFT, all data" in lacking["2"]
    assert "11 started: 10 done, 1 failed, 0 without an end noted" in text
    for plot in ("results-fractions.svg", "results-curves.svg"):
        assert (page.parent / plot).read_text().startswith("<?xml")


def test_runs_from_an_sft_made_again_are_named(results: Path, tmp_path: Path) -> None:
    for arm, seconds in (("sft-full", 10.0), ("dense-full", 10.0), ("paper-full", 11.0)):
        file = result_file(results, BY_NAME[arm], 0)
        made = json.loads(file.read_text()) | {"wall_seconds": {"seed-0-sft-full": seconds}}
        file.write_text(json.dumps(made))
    write_report(results, tmp_path / "results.md")
    assert (
        "stands in the tables: SFT + GRPO, paper (seed 0).\n"
        in (tmp_path / "results.md").read_text()
    )


def test_three_seeds_have_intervals_by_type(results: Path, tmp_path: Path) -> None:
    for file in list(results.glob("seed-1/*.json")):
        copy = results / "seed-2" / file.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(json.dumps(json.loads(file.read_text()) | {"seed": 2}))
    write_report(results, tmp_path / "results.md")
    short = (tmp_path / "results.md").read_text().split("## In short")[1].split("##")[0]
    assert "by question type, `dense` on all data less SFT: closed no clear difference" in short
    assert "seeds)" not in short


def test_a_plot_of_results_that_are_gone_is_removed(results: Path, tmp_path: Path) -> None:
    write_report(results, tmp_path / "results.md")
    assert (tmp_path / "results-curves.svg").is_file()
    for file in [*results.glob("*/dense-full.json"), *results.glob("*/paper-full.json")]:
        file.unlink()
    write_report(results, tmp_path / "results.md")
    assert not (tmp_path / "results-curves.svg").exists()


def test_one_seed_is_said_to_be_one(results: Path, tmp_path: Path) -> None:
    for file in results.glob("seed-1/*.json"):
        if file.name != "sft-full.json":
            file.unlink()
    page = tmp_path / "results.md"
    write_report(results, page)
    text = page.read_text()
    assert "-0.005 [-0.005, -0.005]; -0.005 —: **comparable** (one seed)" in text
    assert "V-score better (+0.100 [+0.100, +0.100]) (one seed)" in text
    assert "reward, sampled not judged (+0.010) (one seed)" in text
    assert "by question type, `dense`" not in text
    assert "0.600 0.610" in text
    assert "nan" not in text.lower()


def test_a_page_of_little_is_a_page(results: Path, tmp_path: Path) -> None:
    """Another seed only, no question of a type, no run with both arms of a pair, no budget."""
    for file in results.glob("seed-*/*.json"):
        file.unlink()
    (results / "budget.json").unlink()
    for arm, seed in (("sft-full", 0), ("dense-full", 4)):
        made = made_up(arm, seed, 0.6)
        del made["intervals"]["multi"]
        write_result(result_file(results, BY_NAME[arm], seed), made)
    write_report(results, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "| SFT, all data | 0.500; 0.500 — |" in text
    assert "| SFT + GRPO, dense, all data | 0.500; — 0.500 |" in text
    assert "| — | 0.500" in text  # the type without a question
    assert text.count("No results.") == 2  # differences and the claim
    assert "passes of SFT" not in text


def test_a_budget_of_another_size_is_refused(results: Path, tmp_path: Path) -> None:
    file = results / "budget.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"images": 1}}))
    with pytest.raises(InputError, match="of a study of another size"):
        write_report(results, tmp_path / "results.md")


def test_every_start_is_listed_with_its_end() -> None:
    def entry(event: str, minute: int, commit: str = "a" * 40, **more: str) -> dict[str, Any]:
        time = f"2026-01-01T00:{minute:02}:00+00:00"
        run = {"arm": "base", "seed": 0, "size": SIZE.as_dict()}
        return {"event": event, "time": time, "commit": commit, **run, **more}

    found = history(
        [
            entry("started", 0),
            entry("started", 1, "b" * 40 + " with local changes"),
            entry("done", 3),
            entry("started", 4),
            entry("failed", 6, why="StageFailed"),
            entry("started", 7),
            entry("done", 9),
        ]
    )
    assert "4 started: 2 done, 1 failed, 1 without an end noted" in found
    assert "Done again: 1; the result file is of the last." in found
    assert f"| 2026-01-01T00:00:00 | base | 0 | {'a' * 12} |  | no end noted |" in found
    assert f"| 2026-01-01T00:01:00 | base | 0 | {'b' * 12} | yes | done after 2.0 min |" in found
    assert "failed (StageFailed) after 2.0 min" in found


def test_the_budget_counts_rows_and_what_is_taken_of_them(plan: StudyPlan, tmp_path: Path) -> None:
    plan.data.mkdir(parents=True)
    for count, fraction in enumerate(FRACTIONS, 3):
        file = Path(fraction_file(str(plan.data), "sft_train", fraction))
        pq.write_table(pa.table({"row": list(range(count))}), file)
    write_budget(tmp_path, plan)
    budget = read_budget(tmp_path, SIZE.as_dict())
    assert budget is not None
    assert budget["rows"] == {"full": 3, "1of2": 4, "1of4": 5, "1of8": 6, "1of16": 7}
    assert budget["sft_samples"] == 2 * 16  # steps of demo_sft's batch
    assert budget["grpo_prompts"] == 5 * 16


def test_runs_with_results_are_not_run_again(results: Path, plan: StudyPlan) -> None:
    before = (results / "manifest.jsonl").read_text()
    run_all(plan, results, [BY_NAME["sft-full"], BY_NAME["dense-full"]], [0, 1])
    assert (results / "manifest.jsonl").read_text() == before
    assert not plan.root.exists()


def test_results_of_another_size_are_refused(results: Path, tmp_path: Path) -> None:
    other = StudyPlan(tmp_path / "work", Size(images=11))
    with pytest.raises(InputError, match="other settings"):
        run_all(other, results, [BY_NAME["sft-full"]], [0])
    file = result_file(results, BY_NAME["sft-full"], 0)
    changed = json.loads(file.read_text()) | {"size": {"images": 11}}
    file.write_text(json.dumps(changed))
    with pytest.raises(InputError, match="2 different sizes"):
        write_report(results, tmp_path / "page.md")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("outputs/study", "results/study", "docs/results.md")),
        (
            ["--quick"],
            ("outputs/quick", "outputs/quick/results", "outputs/quick/results/results.md"),
        ),
        (["--results", "r"], ("outputs/study", "r", "r/results.md")),
        (["--quick", "--work", "w"], ("w", "w/results", "w/results/results.md")),
        (["--results", "r", "--report", "p.md"], ("outputs/study", "r", "p.md")),
    ],
)
def test_only_the_study_writes_the_studys_page(
    options: list[str], expected: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["study", *options])
    assert tuple(map(str, _output_paths(_options()))) == expected


def test_quick_is_four_arms() -> None:
    assert len(QUICK_ARMS) == 4
    assert set(QUICK_ARMS) <= set(BY_NAME)
