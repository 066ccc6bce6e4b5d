"""docs/results.md, made from the result files and the manifest and from nothing else."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically
from recipe.study.arms import BY_NAME
from recipe.study.claim import budget_table, claim_table, half_width, loss, margin
from recipe.study.history import history, rebuilt
from recipe.study.numbers import CLAIM_MARGIN, Results, all_seeds
from recipe.study.plots import curves_plot, fractions_plot
from recipe.study.runs import read_budget, read_manifest
from recipe.study.summary import missing, summary
from recipe.study.tables import (
    arms_table,
    curves_table,
    differences_table,
    flags,
    samples_table,
    types_table,
    without_format,
)

NOTES = """\
- The phantom set is synthetic: drawn chests with drawn findings. No number here says anything about
  reading X-rays, about MIMIC-CXR or about a model of seven billion parameters.
- The base model was pre-trained on reports of all training pictures, whatever the fraction: only
  the questions with their answers are held back. It stands for a model that has seen much already.
- The data, its split and the rows of each share come from one seed; the seeds of the runs vary the
  base model's weights, the order of rows and the rollouts. What another eighth of the data would
  give is in no interval.
- SFT + GRPO takes more steps in all than SFT alone.
- Few seeds make wide intervals: *inconclusive* and *no clear difference* do not mean *equal*.
- The published numbers come from another data set, model, judge and budget: what comes out here the
  same way or the other way neither confirms nor refutes them."""


def read_results(folder: Path) -> Results:
    """All results by arm and seed.

    Raises:
        InputError: there are none, or of runs of different sizes.
    """
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    sizes = set()
    for path in sorted(folder.glob("seed-*/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("arm") not in BY_NAME:
            raise InputError(f"{path}: not a result of an arm of the study")
        found[result["arm"]][int(result["seed"])] = result
        sizes.add(json.dumps(result["size"], sort_keys=True))
    if not found:
        raise InputError(f"{folder}: no results; run python -m recipe.study first")
    if len(sizes) > 1:
        raise InputError(f"{folder}: results of {len(sizes)} different sizes; keep one")
    return found


def write_report(results_folder: Path, path: Path) -> None:
    """Write the page and the plots beside it.

    Raises:
        InputError: the results cannot be read.
    """
    results = read_results(results_folder)
    budget = read_budget(results_folder, next(iter(next(iter(results.values())).values()))["size"])
    text = "\n".join(_parts(results, read_manifest(results_folder), budget, path))
    write_text_atomically(path, text)


def _parts(
    results: Results, manifest: list[dict[str, Any]], budget: dict[str, Any] | None, path: Path
) -> Iterator[str]:
    yield "# Results of the study\n"
    yield _setting(results)
    if lacking := missing(results):
        yield lacking
    if said := "\n".join(summary(results)):
        yield f"## In short\n\n{said}\n"
    yield from _arms(results)
    yield "## What does GRPO add, and what does each part of the reward?\n"
    yield (
        "All answers of one arm less those of another to the same questions, seed by seed. The "
        "arms without reasoning have an SFT, prompts and rows of their own. Their reward is left "
        "out: `dense` pays for a reasoning that they never write.\n"
    )
    yield differences_table(results)
    yield rebuilt(results)
    yield "## Does RL on a fraction of the data reach SFT on all of it?\n"
    yield from _claim(results, budget)
    if fractions_plot(results, path.with_name("results-fractions.svg")):
        yield "![A-score and V-score over the share of the data](results-fractions.svg)\n"
        yield (
            "Bars are each arm's own interval; the table compares question by question. Dashed: "
            "on the left the majority answer, on the right the region prior that is told the "
            "region.\n"
        )
    yield from _training(results, path)
    yield f"## What cannot be concluded\n\n{NOTES}\n"
    yield "## Every run started\n"
    yield history(manifest)


def _setting(results: Results) -> str:
    some = next(iter(next(iter(results.values())).values()))
    size, questions = some["size"], some["questions"]
    seeds = all_seeds(results)
    return (
        "Written by `python -m recipe.study`; do not edit. All numbers are measured on the "
        f"**synthetic** phantom set ({size['images']} images) with the tiny model: "
        f"{size['sft_steps']} steps of SFT and {size['grpo_steps']} of GRPO, each of "
        f"{size['prompts']} prompts with {size['group']} rollouts; {len(questions['id'])} held-out "
        f"questions about {len(set(questions['patient']))} patients, answered greedily where not "
        "said otherwise.\n\n"
        "`0.512 [0.480, 0.544]; 0.520 0.500 0.516` is the mean over the seeds, its 95 % interval, "
        f"and the value under seed {', '.join(map(str, seeds))}, in this order. An interval is the "
        "wider, at either end, of a bootstrap over seeds and patients and of Student's t over the "
        "seeds; of one seed, a bootstrap over patients, which says nothing about other seeds. Of "
        "the sampled reward, and by question type, it is Student's t alone, which does not know "
        "how questions vary. It holds for one comparison: no correction is made for there being "
        "many. Reward is that of the preset `dense` for all arms.\n"
    )


def _arms(results: Results) -> Iterator[str]:
    yield "## How good is each arm?\n"
    yield arms_table(results)
    yield without_format(results)
    yield flags(results)
    yield "A-score of greedy answers by question type:\n"
    yield types_table(results)
    yield "Four samples of each question at temperature 1:\n"
    yield samples_table(results)


def _claim(results: Results, budget: dict[str, Any] | None) -> Iterator[str]:
    yield (
        "The paper claims that SFT + RL on a fraction of the data is comparable to SFT on all of "
        f"it. {margin()} SFT alone on the same fraction stands beside it, to tell what RL has to "
        "do with it; what GRPO adds on each share is in the table above.\n"
    )
    if budget:
        yield (
            f"Every SFT takes {budget['sft_samples']:,} rows in all, whatever the share, and every "
            f"GRPO {budget['grpo_prompts']:,} prompts, drawn from the same share. So a share "
            "decides how many *different* rows are seen, and not how long is trained; of a share "
            "with more rows than SFT takes, it sees a part, once:\n"
        )
        yield budget_table(budget)
    yield claim_table(results)
    if lost := loss(results):
        yield f"{lost}\n"
    width = half_width(results)
    if width is not None:
        yield (
            f"The median half-width of these intervals is {width:.3f}. Two equally good arms come "
            "out as comparable more often than not only where it is below "
            f"{CLAIM_MARGIN}: *inconclusive* says that this many seeds and questions cannot tell.\n"
        )


def _training(results: Results, path: Path) -> Iterator[str]:
    yield "## How does training go under `paper` and under `dense`?\n"
    yield (
        "Means over the rollouts that were trained on, sampled at temperature 1, from the first to "
        "the last fifth of the steps. `paper` pays an answer all or nothing and `dense` in part, "
        "so reward and answer compare within an arm only; mean IoU compares between them.\n"
    )
    yield curves_table(results)
    arms = {"paper-full": "paper", "dense-full": "dense"}
    if curves_plot(results, arms, path.with_name("results-curves.svg")):
        yield "![Course of reward, answers and overlap over GRPO's steps](results-curves.svg)\n"
