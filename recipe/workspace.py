"""``python -m recipe.workspace``: a W&B workspace with the curves of GRPO runs laid out.

Needs a login to W&B and a project that runs were synced to. ``--out FILE`` writes the definition
instead, which needs neither.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically
from recipe.program import fail
from reward.ground_truth import QUESTION_TYPES
from reward.settings import COMPONENTS

STAGES = ("gen", "old_log_prob", "update_actor", "update_weights")


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


def _components(prefix: str, kind: str) -> tuple[Panel, ...]:
    return tuple(
        Panel(name.replace("_", " "), (f"{prefix}{name}/{kind}",))
        for name in ("score", *COMPONENTS)
    )


def layout(judged: bool = False, reference: bool = False) -> tuple[Group, ...]:
    """Sections and panels; every metric is one that such a run logs.

    Args:
        judged: the runs have a judge.
        reference: the runs have the KL loss.
    """
    lengths = (
        Panel("Response length, tokens", ("response_length/mean", "response_length/max")),
        Panel("Cut off at the limit", ("response_length/clip_ratio",)),
        Panel("Reasoning length, tokens", ("reasoning_length/mean", "reasoning_length/max")),
        Panel("Responses without a reasoning", ("reasoning_length/none",)),
        Panel("Rollouts that failed", ("training/failed_rollouts",)),
        Panel("Boxes in the answer", ("reward/n_boxes/mean", "reward/box_count_match/mean")),
        Panel("Boxes in the reasoning", ("reward/n_think_boxes/mean",)),
    )
    policy: tuple[Panel, ...] = (
        Panel("Spread within a group", ("reward/group_std/mean",)),
        Panel("Groups without a signal", ("reward/group_std/zero",)),
        Panel("Rollout against actor, probability", ("training/rollout_probs_diff_mean",)),
        Panel(
            "Rollout against actor, log-probability",
            ("training/rollout_actor_log_prob_diff/mean",),
        ),
        Panel("Gradient norm", ("actor/grad_norm",), log_scale=True),
        Panel("Entropy", ("actor/entropy",)),
        Panel("KL of the update", ("actor/ppo_kl",)),
    )
    if reference:
        policy += (Panel("KL to the reference", ("actor/kl_loss",)),)
    cost = (
        Panel("Time of a step, s", ("timing_s/step",)),
        Panel("Time by stage, s", tuple(f"timing_s/{stage}" for stage in STAGES)),
        Panel("Tokens of a step", ("perf/total_num_tokens",)),
        Panel("Tokens a second and GPU", ("perf/throughput",)),
    )
    types = tuple(
        Panel(
            f"{name.replace('_', ' ')} by question type",
            tuple(f"by_type/{kind}/{name}/mean" for kind in QUESTION_TYPES),
        )
        for name in ("score", *COMPONENTS)
    )
    groups = [
        Group("Reward: means", _components("reward/", "mean")),
        Group("Reward: standard deviations", _components("reward/", "std"), is_open=False),
        Group("Reward by question type", types),
        Group("Responses", lengths),
        Group("Policy", policy),
        Group("Time and tokens", cost),
    ]
    if judged:
        shares = ("judge/failed_share",)
        groups.append(Group("Judge", (Panel("Faults, share", shares), *_judge_counts())))
    return tuple(groups)


def _judge_counts() -> tuple[Panel, ...]:
    return (Panel("Asked and failed", ("judge/asked", "judge/failed")),)


def build(entity: str, project: str, name: str, groups: tuple[Group, ...]) -> Any:
    """The workspace as an object of `wandb_workspaces`, not saved yet."""
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
        write_text_atomically(options.out, json.dumps(view, indent=2) + "\n")
        print(options.out)
        return
    try:
        print(upload(workspace))
    except InputError as error:
        fail(str(error))


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
            f"W&B did not take the workspace ({error}): run `wandb login`, and give --entity and "
            "--project of a project that runs were synced to"
        ) from error
    return str(workspace.url)


if __name__ == "__main__":
    main()
