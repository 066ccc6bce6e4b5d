"""``python -m recipe.workspace``: make a W&B workspace with the curves of GRPO runs.

It needs a W&B login and a project that runs were synced to. ``--out FILE`` writes the definition
to a file instead, which needs neither.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.program import InputError, write_whole
from recipe.program import one_line_at_the_end
from reward.ground_truth import QUESTION_TYPES
from reward.settings import COMPONENTS


@dataclass(frozen=True)
class Panel:
    """A line plot of metrics over steps."""

    title: str
    metrics: tuple[str, ...]
    log_scale: bool = False


@dataclass(frozen=True)
class Group:
    """A titled section of the workspace."""

    title: str
    panels: tuple[Panel, ...]
    is_open: bool = True


TITLES = {name: name.replace("_", " ") for name in ("score", *COMPONENTS)}
STAGES = ("gen", "old_log_prob", "update_actor", "update_weights")
MEANS = tuple(Panel(title, (f"reward/{name}/mean",)) for name, title in TITLES.items())
DEVIATIONS = tuple(Panel(title, (f"reward/{name}/std",)) for name, title in TITLES.items())
BY_TYPE = tuple(
    Panel(
        f"{title} by question type",
        tuple(f"by_type/{kind}/{name}/mean" for kind in QUESTION_TYPES),
    )
    for name, title in TITLES.items()
)
RESPONSES = (
    Panel("Response length, tokens", ("response_length/mean", "response_length/max")),
    Panel("Cut off at the limit", ("response_length/clip_ratio",)),
    Panel("Reasoning length, tokens", ("reasoning_length/mean", "reasoning_length/max")),
    Panel("Responses without a reasoning", ("reasoning_length/none",)),
    Panel("Rollouts that failed", ("training/failed_rollouts",)),
    Panel("Groups drawn anew", ("training/redrawn_groups",)),
    Panel("Boxes in the answer", ("reward/n_boxes/mean", "reward/box_count_match/mean")),
    Panel("Boxes in the reasoning", ("reward/n_think_boxes/mean",)),
)
POLICY = (
    Panel("Spread within a group", ("reward/group_std/mean",)),
    Panel("Groups without a signal", ("reward/group_std/zero",)),
    Panel("Rollout against actor, probability", ("training/rollout_probs_diff_mean",)),
    Panel("Rollout against actor, log-probability", ("training/rollout_actor_log_prob_diff/mean",)),
    Panel("Gradient norm", ("actor/grad_norm",), log_scale=True),
    Panel("Entropy", ("actor/entropy",)),
    Panel("KL of the update", ("actor/ppo_kl",)),
)
REFERENCE = (Panel("KL to the reference", ("actor/kl_loss",)),)
COST = (
    Panel("Time of a step, s", ("timing_s/step",)),
    Panel("Time by stage, s", tuple(f"timing_s/{stage}" for stage in STAGES)),
    Panel("Tokens of a step", ("perf/total_num_tokens",)),
    Panel("Tokens a second and GPU", ("perf/throughput",)),
)
JUDGE = (
    Panel("Faults, share", ("judge/failed_share",)),
    Panel("Asked and failed", ("judge/asked", "judge/failed")),
)


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
    workspace = build(
        options.entity, options.project, options.name, layout(options.judged, options.reference)
    )
    if options.out:
        view = workspace._to_model().model_dump(by_alias=True, mode="json")
        write_whole(options.out, json.dumps(view, indent=2) + "\n")
        print(options.out)
        return
    with one_line_at_the_end():
        print(upload(workspace))


def layout(judged: bool = False, reference: bool = False) -> tuple[Group, ...]:
    """Lay out the sections; runs with a judge, and those with the KL loss, log further metrics."""
    groups = (
        Group("Reward: means", MEANS),
        Group("Reward: standard deviations", DEVIATIONS, is_open=False),
        Group("Reward by question type", BY_TYPE),
        Group("Responses", RESPONSES),
        Group("Policy", POLICY + REFERENCE if reference else POLICY),
        Group("Time and tokens", COST),
    )
    return (*groups, Group("Judge", JUDGE)) if judged else groups


def build(entity: str, project: str, name: str, groups: tuple[Group, ...]) -> Any:
    """Build the workspace as an object of `wandb_workspaces`, without saving it."""
    import wandb_workspaces.reports.v2.interface as reports
    import wandb_workspaces.workspaces as workspaces

    sections = []
    for group in groups:
        panels: list[Any] = [
            reports.LinePlot(
                title=panel.title, x="Step", y=list(panel.metrics), log_y=panel.log_scale or None
            )
            for panel in group.panels
        ]
        sections.append(workspaces.Section(name=group.title, panels=panels, is_open=group.is_open))
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
