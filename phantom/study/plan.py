"""The arms of the study, and the stages of each run, which extend those of the demo."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phantom.base import BASE
from phantom.demo import (
    GRPO_GROUP,
    GRPO_PROMPTS,
    GRPO_STEPS,
    IMAGES,
    TEST_SHARE,
)
from phantom.stages import Stage, draw_stage, prepare_stage, program, training_stage
from recipe.program import FRACTIONS, compose_config

BY_SHARE = tuple(reversed(FRACTIONS))
"""Fractions from the smallest share of the data to all of it."""
NO_REASONING = "no_reasoning"
DATA_SEED = 0
SFT_STEPS = 864
"""One pass over all rows of 4,000 images in batches of 16, so that "all data" is seen whole."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: name, also of its result files.
        title: title in tables.
        sft: whether supervised fine-tuning comes first; otherwise training starts from the base.
        reward: preset of GRPO; None stops after SFT.
        fraction: fraction of the training rows, for both SFT and GRPO.
        prompts: fraction of the prompts of GRPO, if it is another one.
        ablation: of GRPO, a file of `configs/ablation`.
        reasoning: whether prompts ask for a reasoning and responses have one.
        shuffled: whether rows have the pictures of other patients.
    """

    name: str
    title: str
    sft: bool = True
    reward: str | None = None
    fraction: str = "full"
    prompts: str | None = None
    ablation: str | None = None
    reasoning: bool = True
    shuffled: bool = False

    @property
    def start(self) -> str:
        """Name of the model that GRPO starts from, or that SFT makes."""
        if not self.sft:
            return "base"
        kind = "shuffled" if self.shuffled else self.fraction
        return f"sft-{kind if self.reasoning else NO_REASONING}"


def share_of(fraction: str) -> float:
    """Return a fraction's share of the data: 0.5 for "1of2"."""
    return 1.0 if fraction == "full" else 1 / int(fraction.removeprefix("1of"))


def share_title(fraction: str) -> str:
    """Return a fraction as the page writes it: "1/2", or "all data"."""
    return "all data" if fraction == "full" else fraction.replace("of", "/")


ARMS = (
    Arm("base", "before SFT", sft=False),
    *(Arm(f"sft-{f}", f"SFT, {share_title(f)}", fraction=f) for f in FRACTIONS),
    Arm("sft-no_reasoning", "SFT without reasoning", reasoning=False),
    Arm("sft-shuffled", "SFT on pictures shuffled between patients", shuffled=True),
    Arm("rl-full", "RL only, dense", sft=False, reward="dense"),
    Arm("paper-full", "SFT + GRPO, paper", reward="paper"),
    *(
        Arm(f"dense-{f}", f"SFT + GRPO, dense, {share_title(f)}", reward="dense", fraction=f)
        for f in FRACTIONS
    ),
    Arm(
        "cold_start-1of8",
        "SFT, 1/8 + GRPO, dense, all prompts",
        reward="dense",
        fraction="1of8",
        prompts="full",
    ),
    Arm(
        "segments",
        "SFT + GRPO, dense with credit by segment",
        reward="dense",
        ablation="segments",
    ),
    Arm(
        "no_think_grounding",
        "SFT + GRPO, dense without grounding of the reasoning",
        reward="no_think_grounding",
    ),
    Arm("no_alignment", "SFT + GRPO, dense without alignment", reward="no_alignment"),
    Arm(
        NO_REASONING,
        "SFT + GRPO, dense without reasoning",
        reward=NO_REASONING,
        reasoning=False,
    ),
)
BY_NAME = {arm.name: arm for arm in ARMS}
SEEDS = (0, 1, 2)
QUICK_SEEDS = (0,)
QUICK_ARMS = ("sft-full", "sft-1of8", "paper-full", "dense-1of8")
"""One seed, four arms: the claim on data efficiency, and the published reward."""


@dataclass(frozen=True)
class Size:
    """Size of a run, the same for all arms of a study; results of a different size are refused."""

    images: int = IMAGES
    sft_steps: int = SFT_STEPS
    grpo_steps: int = GRPO_STEPS
    prompts: int = GRPO_PROMPTS
    group: int = GRPO_GROUP

    @property
    def name(self) -> str:
        """Name of the folder for this size, so that stages of different sizes stay apart."""
        return "-".join(str(value) for value in self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        """Return the values by name, as in result files."""
        return asdict(self)


@dataclass(frozen=True)
class StudyPlan:
    """Paths and stages below `root`.

    Data and base model are the same for all seeds, so that all models answer the same questions; a
    run's seed decides the order of the rows and the rollouts.
    """

    root: Path
    size: Size

    @property
    def data(self) -> Path:
        """Folder of the rollout and SFT parquet."""
        return self.root / "data"

    def _data_of(self, arm: Arm) -> Path:
        return self.root / "data-shuffled" if arm.shuffled else self.data

    def _folder(self, seed: int) -> Path:
        return self.root / f"seed-{seed}"

    def predictions(self, arm: Arm, seed: int) -> Path:
        """Return the folder of recipe.evaluate's output for a run."""
        return self._folder(seed) / "eval" / arm.name

    def training_metrics(self, arm: Arm, seed: int) -> Path:
        """Return the metrics file of the run's last training stage."""
        name = arm.start if arm.reward is None else f"grpo-{arm.name}"
        return self._folder(seed) / name / "metrics.jsonl"

    def stages(self, arm: Arm, seed: int) -> list[Stage]:
        """Return all stages of a run in order, including those shared with other runs."""
        stages = [
            draw_stage(self.root, self.size.images, DATA_SEED),
            prepare_stage(self.root, DATA_SEED, TEST_SHARE),
        ]
        if arm.shuffled:
            stages.append(self._shuffle(arm))
        if arm.sft:
            stages.append(self._sft(arm, seed))
        if arm.reward:
            stages.append(self._grpo(arm, seed))
        stages.append(self._evaluate(arm, seed))
        return stages

    def _shuffle(self, arm: Arm) -> Stage:
        out = self._data_of(arm)
        command = ("phantom.study.shuffled", str(self.data), str(out))
        return Stage("data-shuffled", "exchange the pictures of patients", command, out)

    def _program(self, name: str, arm: Arm, seed: int, *overrides: str) -> tuple[str, ...]:
        without = () if arm.reasoning else ("data.reasoning=false",)
        return program(name, self._data_of(arm), seed, *without, *overrides)

    def _sft(self, arm: Arm, seed: int) -> Stage:
        folder, steps, name = self._folder(seed), self.size.sft_steps, f"seed-{seed}-{arm.start}"
        command = self._program(
            "sft",
            arm,
            seed,
            "experiment=demo_sft",
            f"data.fraction={arm.fraction}",
            # All arms take the same number of steps, so fewer rows are seen more often.
            "trainer.total_epochs=10000",
            f"trainer.save_freq={steps}",
            "trainer.test_freq=-1",
            "trainer.logger=[console,file]",
        )
        title = f"{name}, {steps} steps"
        return training_stage(name, title, command, BASE, folder / arm.start, steps)

    def sft_batch(self) -> int:
        """Return the number of rows of an SFT step."""
        overrides = self._program("sft", BY_NAME["sft-full"], 0, "experiment=demo_sft")[1:]
        return int(compose_config("sft", list(overrides)).data.train_batch_size)

    def _model(self, arm: Arm, seed: int) -> Path:
        """Return the folder of the model to evaluate, or of the run with its last checkpoint."""
        if not (arm.sft or arm.reward):
            return BASE
        return self._folder(seed) / (f"grpo-{arm.name}" if arm.reward else arm.start)

    def _grpo(self, arm: Arm, seed: int) -> Stage:
        steps, name = self.size.grpo_steps, f"grpo-{arm.name}"
        start = BASE
        if arm.sft:
            checkpoint = f"checkpoints/global_step_{self.size.sft_steps}/huggingface"
            start = self._folder(seed) / arm.start / checkpoint
        command = self._program(
            "train",
            arm,
            seed,
            "experiment=demo_grpo",
            f"reward={arm.reward}",
            f"data.fraction={arm.prompts or arm.fraction}",
            *([f"ablation={arm.ablation}"] if arm.ablation else []),
            f"trainer.save_freq={steps}",
            f"data.train_batch_size={self.size.prompts}",
            f"actor_rollout_ref.actor.ppo_mini_batch_size={self.size.prompts}",
            f"actor_rollout_ref.rollout.n={self.size.group}",
            "trainer.total_epochs=10000",
            "trainer.logger=[console,file]",
        )
        title, run = f"seed-{seed}-{name}, {steps} steps", self._folder(seed) / name
        return training_stage(f"seed-{seed}-{name}", title, command, start, run, steps)

    def _evaluate(self, arm: Arm, seed: int) -> Stage:
        out = self.predictions(arm, seed)
        arguments = self._program(
            "evaluate",
            arm,
            seed,
            "experiment=demo_evaluate",
            f"model.path={self._model(arm, seed)}",
            f"out={out}",
        )
        return Stage(f"seed-{seed}-eval-{arm.name}", f"evaluate {arm.title}", arguments, out)


def settings_of(plan: StudyPlan, arm: Arm, seed: int) -> dict[str, Any]:
    """Return the keys that identify a run in its result file."""
    return {"arm": arm.name, "seed": seed, "size": plan.size.as_dict()}
