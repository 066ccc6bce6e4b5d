"""The stages of the demo, in order, and where each leaves its results."""

from dataclasses import dataclass
from pathlib import Path

from recipe.demo.stage import Stage

IMAGES = 4000
SFT_STEPS = 400
GRPO_STEPS = 34
GRPO_PROMPTS = 16
GRPO_GROUP = 8
# Admits 112 x 112 for every picture of the phantom set, whatever its aspect.
MIN_PIXELS, MAX_PIXELS = 12544, 15680


@dataclass(frozen=True)
class Plan:
    """Paths and settings of one demo.

    Attributes:
        root: folder of the demo.
        seed: of data, model, training and bootstrap.
    """

    root: Path
    seed: int

    @property
    def data(self) -> Path:
        """Rollout and SFT parquet."""
        return self.root / "data"

    def checkpoint(self, model: str) -> Path:
        """Hugging Face folder of the trained model, ``sft`` or ``grpo``."""
        steps, actor = {"sft": (SFT_STEPS, ""), "grpo": (GRPO_STEPS, "actor")}[model]
        return self.root / model / "checkpoints" / f"global_step_{steps}" / actor / "huggingface"

    def predictions(self, model: str) -> Path:
        """Folder of greedy.jsonl and sampled.jsonl of a model."""
        return self.root / "eval" / model

    def stages(self) -> list[Stage]:
        """All stages, in order."""
        return [
            self._phantom(),
            self._prepare(),
            self._model(),
            self._sft(),
            self._evaluate("sft"),
            self._grpo(),
            self._evaluate("grpo"),
        ]

    def _phantom(self) -> Stage:
        phantom = self.root / "phantom"
        arguments = ("--out", str(phantom), "--images", str(IMAGES))
        return Stage(
            "phantom",
            f"draw {IMAGES} synthetic chest X-rays with questions",
            ("data_prep.phantom", *arguments, "--seed", str(self.seed)),
            phantom,
        )

    def _prepare(self) -> Stage:
        phantom = self.root / "phantom"
        folders = ("--source", phantom, "--images", phantom / "files", "--out", self.data)
        sizes = ("--min-pixels", MIN_PIXELS, "--max-pixels", MAX_PIXELS)
        shares = ("--val", 0.02, "--test", 0.03, "--seed", self.seed)
        arguments = tuple(str(value) for value in (*folders, *sizes, *shares))
        title = "turn them into rollout and SFT parquet"
        return Stage("data", title, ("data_prep.thinkvg", *arguments), self.data)

    def _model(self) -> Stage:
        model = self.root / "model"
        pictures = self.root / "phantom" / "pictures.parquet"
        arguments = ("--data", str(self.data), "--out", str(model), "--pictures", str(pictures))
        return Stage(
            "model",
            "make a tiny Qwen2.5-VL and pre-train it on grounded reports",
            ("recipe.tiny", *arguments, "--seed", str(self.seed)),
            model,
        )

    def _program(self, name: str, *overrides: str) -> tuple[str, ...]:
        return (
            f"recipe.{name}",
            "cluster=cpu",
            "model=tiny",
            f"data.dir={self.data}",
            f"seed={self.seed}",
            *overrides,
        )

    def _sft(self) -> Stage:
        run = self.root / "sft"
        arguments = self._program(
            "sft",
            "experiment=demo_sft",
            f"model.path={self.root / 'model'}",
            f"run_dir={run}",
            f"trainer.total_training_steps={SFT_STEPS}",
        )
        title = f"supervised cold start, {SFT_STEPS} steps"
        return Stage("sft", title, arguments, run, run / "metrics.jsonl", SFT_STEPS)

    def _grpo(self) -> Stage:
        run = self.root / "grpo"
        arguments = self._program(
            "train",
            "experiment=demo_grpo",
            f"model.path={self.checkpoint('sft')}",
            f"run_dir={run}",
            f"trainer.total_training_steps={GRPO_STEPS}",
            f"data.train_batch_size={GRPO_PROMPTS}",
            f"actor_rollout_ref.rollout.n={GRPO_GROUP}",
        )
        title = f"GRPO with Ray, vLLM and FSDP, {GRPO_STEPS} steps"
        return Stage("grpo", title, arguments, run, run / "metrics.jsonl", GRPO_STEPS)

    def _evaluate(self, model: str) -> Stage:
        arguments = self._program(
            "evaluate",
            "experiment=demo_evaluate",
            f"model.path={self.checkpoint(model)}",
            f"out={self.predictions(model)}",
            *([f"+beside.SFT={self.predictions('sft')}"] if model == "grpo" else []),
        )
        title = {"sft": "the supervised model", "grpo": "the model after GRPO"}[model]
        title = f"answer the test split with {title}"
        return Stage(f"eval-{model}", title, arguments, self.predictions(model))
