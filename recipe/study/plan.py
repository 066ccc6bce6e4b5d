"""The stages of each run of the study, on top of the demo's; models are shared between arms."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipe.demo.plan import GRPO_GROUP, GRPO_PROMPTS, GRPO_STEPS, IMAGES, SFT_STEPS, Plan
from recipe.demo.stage import Stage
from recipe.program import compose_config
from recipe.study.arms import BY_NAME, Arm

DATA_SEED = 0


@dataclass(frozen=True)
class Size:
    """What a run costs. All arms of a study have the same; results of another are refused."""

    images: int = IMAGES
    sft_steps: int = SFT_STEPS
    grpo_steps: int = GRPO_STEPS
    prompts: int = GRPO_PROMPTS
    group: int = GRPO_GROUP

    @property
    def name(self) -> str:
        """A folder's name, so that stages of different sizes never meet."""
        return "-".join(str(value) for value in self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        """For result files."""
        return asdict(self)


@dataclass(frozen=True)
class StudyPlan:
    """Paths and stages below `root`.

    The data is the same for all seeds, so that all models answer the same questions; the seed
    decides the base model's weights, the order of the rows and the rollouts.
    """

    root: Path
    size: Size

    @property
    def data(self) -> Path:
        """Rollout and SFT parquet."""
        return self.root / "data"

    def _data_of(self, arm: Arm) -> Path:
        return self.root / f"data-{arm.variant}" if arm.variant else self.data

    def _folder(self, seed: int) -> Path:
        return self.root / f"seed-{seed}"

    def predictions(self, arm: Arm, seed: int) -> Path:
        """Folder of recipe.evaluate for a run."""
        return self._folder(seed) / "eval" / arm.name

    def training_metrics(self, arm: Arm, seed: int) -> Path:
        """Log of the run's last training stage."""
        name = arm.start if arm.reward is None else f"grpo-{arm.name}"
        return self._folder(seed) / name / "metrics.jsonl"

    def stages(self, arm: Arm, seed: int) -> list[Stage]:
        """All stages of a run, in order, those included that other runs share."""
        demo = Plan(self.root, DATA_SEED)
        stages = [self._phantom(), demo._prepare()]
        if arm.variant:
            stages.append(self._variant(arm.variant))
        stages.append(self._base(seed))
        if arm.sft:
            stages.append(self._sft(arm, seed))
        if arm.reward:
            stages.append(self._grpo(arm, seed))
        stages.append(self._evaluate(arm, seed))
        return stages

    def _phantom(self) -> Stage:
        out = self.root / "phantom"
        arguments = ("--out", str(out), "--images", str(self.size.images), "--seed", str(DATA_SEED))
        return Stage("phantom", "draw the phantom set", ("data_prep.phantom", *arguments), out)

    def _variant(self, kind: str) -> Stage:
        out = self.root / f"data-{kind}"
        command = ("recipe.study.variants", kind, str(self.data), str(out))
        return Stage(f"data-{kind}", f"change the rows: {kind}", command, out)

    def _base(self, seed: int) -> Stage:
        out = self._folder(seed) / "base"
        pictures = self.root / "phantom" / "pictures.parquet"
        arguments = ("--data", str(self.data), "--out", str(out), "--pictures", str(pictures))
        command = ("recipe.tiny", *arguments, "--seed", str(seed))
        return Stage(f"seed-{seed}-base", f"base model, seed {seed}", command, out)

    def _program(self, name: str, arm: Arm, seed: int, *overrides: str) -> tuple[str, ...]:
        settings = ("cluster=cpu", "model=tiny", f"data.dir={self._data_of(arm)}", f"seed={seed}")
        return (f"recipe.{name}", *settings, *overrides)

    def _sft(self, arm: Arm, seed: int) -> Stage:
        run, steps = self._folder(seed) / arm.start, self.size.sft_steps
        arguments = self._program(
            "sft",
            arm,
            seed,
            "experiment=demo_sft",
            f"data.fraction={arm.fraction}",
            f"model.path={self._folder(seed) / 'base'}",
            f"run_dir={run}",
            f"trainer.total_training_steps={steps}",
            # A share of the rows is seen more often, so that all arms take the same steps.
            "trainer.total_epochs=10000",
            f"trainer.save_freq={steps}",
            "trainer.test_freq=-1",
            "trainer.logger=[console,file]",
        )
        name = f"seed-{seed}-{arm.start}"
        return Stage(name, f"{name}, {steps} steps", arguments, run, run / "metrics.jsonl", steps)

    def sft_batch(self) -> int:
        """Rows of an SFT step."""
        overrides = self._program("sft", BY_NAME["sft-full"], 0, "experiment=demo_sft")[1:]
        return int(compose_config("sft", list(overrides)).data.train_batch_size)

    def _model(self, arm: Arm, seed: int) -> Path:
        """Where the model that answers is: a folder, or a run whose last checkpoint is taken."""
        return self._folder(seed) / (f"grpo-{arm.name}" if arm.reward else arm.start)

    def _grpo(self, arm: Arm, seed: int) -> Stage:
        run, steps = self._folder(seed) / f"grpo-{arm.name}", self.size.grpo_steps
        start = self._folder(seed) / arm.start
        if arm.sft:
            start = start / "checkpoints" / f"global_step_{self.size.sft_steps}" / "huggingface"
        arguments = self._program(
            "train",
            arm,
            seed,
            "experiment=demo_grpo",
            f"reward={arm.reward}",
            f"data.fraction={arm.fraction}",
            f"model.path={start}",
            f"run_dir={run}",
            f"trainer.total_training_steps={steps}",
            f"trainer.save_freq={steps}",
            f"data.train_batch_size={self.size.prompts}",
            f"actor_rollout_ref.actor.ppo_mini_batch_size={self.size.prompts}",
            f"actor_rollout_ref.rollout.n={self.size.group}",
            "trainer.total_epochs=10000",
            "trainer.logger=[console,file]",
        )
        name = f"seed-{seed}-grpo-{arm.name}"
        return Stage(name, f"{name}, {steps} steps", arguments, run, run / "metrics.jsonl", steps)

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
    """What a result file must say to count as this run's."""
    return {"arm": arm.name, "seed": seed, "size": plan.size.as_dict()}
