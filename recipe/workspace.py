"""``python -m recipe.workspace``: make a W&B workspace with the curves of GRPO runs.

It needs a W&B login and a project that runs were synced to. ``--out FILE`` writes the definition
to a file instead, which needs neither.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from data_prep.program import InputError, write_whole
from recipe.program import one_line_at_the_end
from reward.ground_truth import QUESTION_TYPES
from reward.settings import COMPONENTS

TITLES = {name: name.replace("_", " ") for name in ("score", *COMPONENTS)}
STAGES = ("gen", "old_log_prob", "update_actor", "update_weights")
DEVIATIONS = "Reward: standard deviations"
"""This section is closed at first."""
GRADIENT_NORM = "Gradient norm"
"""This panel has a logarithmic scale."""

Layout = dict[str, dict[str, tuple[str, ...]]]
"""Section -> panel -> the metrics that it plots over steps."""

LAYOUT: Layout = {
    "Reward: means": {title: (f"reward/{name}/mean",) for name, title in TITLES.items()},
    DEVIATIONS: {title: (f"reward/{name}/std",) for name, title in TITLES.items()},
    "Reward by question type": {
        f"{title} by question type": tuple(f"by_type/{kind}/{name}/mean" for kind in QUESTION_TYPES)
        for name, title in TITLES.items()
    },
    "Responses": {
        "Response length, tokens": ("response_length/mean", "response_length/max"),
        "Cut off at the limit": ("response_length/clip_ratio",),
        "Reasoning length, tokens": ("reasoning_length/mean", "reasoning_length/max"),
        "Responses without a reasoning": ("reasoning_length/none",),
        "Rollouts that failed": ("training/failed_rollouts",),
        "Groups drawn anew": ("training/redrawn_groups",),
        "Boxes in the answer": ("reward/n_boxes/mean", "reward/box_count_match/mean"),
        "Boxes in the reasoning": ("reward/n_think_boxes/mean",),
    },
    "Policy": {
        "Spread within a group": ("reward/group_std/mean",),
        "Groups without a signal": ("reward/group_std/zero",),
        "Rollout against actor, probability": ("training/rollout_probs_diff_mean",),
        "Rollout against actor, log-probability": ("training/rollout_actor_log_prob_diff/mean",),
        GRADIENT_NORM: ("actor/grad_norm",),
        "Entropy": ("actor/entropy",),
        "KL of the update": ("actor/ppo_kl",),
    },
    "Time and tokens": {
        "Time of a step, s": ("timing_s/step",),
        "Time by stage, s": tuple(f"timing_s/{stage}" for stage in STAGES),
        "Tokens of a step": ("perf/total_num_tokens",),
        "Tokens a second and GPU": ("perf/throughput",),
    },
}
REFERENCE = {"KL to the reference": ("actor/kl_loss",)}
JUDGE = {
    "Faults, share": ("judge/failed_share",),
    "Asked and failed": ("judge/asked", "judge/failed"),
}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m recipe.workspace", description=__doc__)
    parser.add_argument("--entity", required=True, help="user or team")
    parser.add_argument("--project", default="thinkvg", help="(thinkvg)")
    parser.add_argument("--name", default="GRPO", help="of the workspace (GRPO)")
    parser.add_argument("--judged", action="store_true", help="the runs have a judge")
    parser.add_argument("--reference", action="store_true", help="the runs have the KL loss")
    parser.add_argument("--out", type=Path, help="write the definition here, upload nothing")
    options = parser.parse_args()
    layout = dict(LAYOUT)
    if options.reference:
        layout["Policy"] = layout["Policy"] | REFERENCE
    if options.judged:
        layout["Judge"] = JUDGE
    workspace = build(options.entity, options.project, options.name, layout)
    if options.out:
        view = workspace._to_model().model_dump(by_alias=True, mode="json")
        write_whole(options.out, json.dumps(view, indent=2) + "\n")
        print(options.out)
        return
    with one_line_at_the_end():
        print(upload(workspace))


def build(entity: str, project: str, name: str, layout: Layout) -> Any:
    """Build the workspace as an object of `wandb_workspaces`, without saving it."""
    import wandb_workspaces.reports.v2.interface as reports
    import wandb_workspaces.workspaces as workspaces

    sections = []
    for section, metrics_of in layout.items():
        panels: list[Any] = [
            reports.LinePlot(
                title=title, x="Step", y=list(metrics), log_y=title == GRADIENT_NORM or None
            )
            for title, metrics in metrics_of.items()
        ]
        is_open = section != DEVIATIONS
        sections.append(workspaces.Section(name=section, panels=panels, is_open=is_open))
    return workspaces.Workspace(entity=entity, project=project, name=name, sections=sections)


def upload(workspace: Any) -> str:
    """Save the workspace in W&B and return its address.

    Raises:
        InputError: there is no login, or W&B refuses it.
    """
    import wandb

    try:
        workspace.save()
    except (wandb.Error, ValueError) as error:
        raise InputError(
            f"W&B did not save the workspace ({error}): run `wandb login`, and give --entity and "
            "--project of a project that runs were synced to"
        ) from error
    return str(workspace.url)


if __name__ == "__main__":
    main()
