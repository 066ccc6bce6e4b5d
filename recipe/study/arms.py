"""The arms of the study: what is trained how, on which share of the data."""

from dataclasses import dataclass

from recipe.settings import FRACTIONS

SHARES = {"full": 1.0, "1of2": 1 / 2, "1of4": 1 / 4, "1of8": 1 / 8, "1of16": 1 / 16}
BY_SHARE = sorted(SHARES, key=SHARES.__getitem__)
"""From the smallest share of the data to all of it."""
NO_REASONING = "no_reasoning"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: of its result files.
        title: for tables.
        sft: whether supervised fine-tuning comes first; without, training starts from the base.
        reward: preset of GRPO; None stops after SFT.
        fraction: of the training rows, for SFT and GRPO alike.
        variant: of the data, a kind of `recipe.study.variants`; None as it is.
    """

    name: str
    title: str
    sft: bool = True
    reward: str | None = None
    fraction: str = "full"
    variant: str | None = None

    @property
    def start(self) -> str:
        """Name of the model that GRPO starts from, or that SFT makes."""
        if not self.sft:
            return "base"
        return f"sft-{self.variant or self.fraction}"


def _title(fraction: str) -> str:
    return "all data" if fraction == "full" else fraction.replace("of", "/")


ARMS = (
    Arm("base", "before SFT", sft=False),
    *(Arm(f"sft-{f}", f"SFT, {_title(f)}", fraction=f) for f in FRACTIONS),
    Arm("sft-no_reasoning", "SFT without reasoning", variant=NO_REASONING),
    Arm("sft-shuffled", "SFT on pictures shuffled between patients", variant="shuffled"),
    Arm("rl-full", "RL only, dense", sft=False, reward="dense"),
    Arm("paper-full", "SFT + GRPO, paper", reward="paper"),
    *(
        Arm(f"dense-{f}", f"SFT + GRPO, dense, {_title(f)}", reward="dense", fraction=f)
        for f in FRACTIONS
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
        variant=NO_REASONING,
    ),
)
BY_NAME = {arm.name: arm for arm in ARMS}
SEEDS = (0, 1, 2)
QUICK_SEEDS = (0,)
QUICK_ARMS = ("sft-full", "sft-1of8", "paper-full", "dense-1of8")
"""One seed, four arms: the claim on data efficiency, and the published reward."""
