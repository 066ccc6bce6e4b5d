"""Plots of grounding rewards: against the IoU of one box, and against the number of boxes."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.peer_formulas import FORMULAS, Boxes, Formula
from reward.boxes import iou, iou_matrix
from reward.grounding import dense_score
from reward.numbers import Box
from reward.response import Region

TARGET: Box = (0.1, 0.3, 0.4, 0.6)
STEPS = 301


def dense(predicted: Boxes, reference: Boxes) -> float:
    """The dense score of boxes without names."""
    given, wanted = ([Region("", box) for box in boxes] for boxes in (predicted, reference))
    return dense_score(given, wanted, iou_matrix(predicted, reference))


def sliding(share: float) -> Box:
    """The target's box moved to the right, from on it (0) to the far side of the image (1)."""
    x1, y1, x2, y2 = TARGET
    step = share * (1 - x2)
    return (x1 + step, y1, x2 + step, y2)


def growing(share: float) -> Box:
    """The target's box (0) grown to the whole image (1)."""
    x1, y1, x2, y2 = TARGET
    return (x1 * (1 - share), y1 * (1 - share), x2 + (1 - x2) * share, y2 + (1 - y2) * share)


def guesses(count: int) -> list[Box]:
    """The right box and `count` - 1 wrong ones."""
    wrong: list[Box] = [(0.55, 0.02 + 0.1 * k, 0.7, 0.1 + 0.1 * k) for k in range(count - 1)]
    return [TARGET, *wrong]


def draw_curves(path: Path) -> None:
    """Draw three panels; dense is thick, the others thin."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), sharey=True, layout="constrained")
    formulas: dict[str, Formula] = {**FORMULAS, "dense (ours)": dense}
    shares = [index / (STEPS - 1) for index in range(STEPS)]
    for name, formula in formulas.items():
        style = {"linewidth": 3, "color": "black"} if name.startswith("dense") else {"linewidth": 1}
        _panel(axes[0], name, formula, [sliding(share) for share in shares], style)
        _panel(axes[1], name, formula, [growing(share) for share in shares], style)
        counts = range(1, 11)
        values = [formula(guesses(count), [TARGET]) for count in counts]
        axes[2].plot(counts, values, label=name, **style)
    axes[0].set(
        title="a box slides onto its target", xlabel="IoU, left of 0: apart", ylabel="reward"
    )
    axes[1].set(title="the right box grows to the full image", xlabel="share of the image covered")
    axes[2].set(title="the right box and wrong ones", xlabel="boxes given, one wanted")
    axes[2].legend(fontsize=7)
    mpl.rcParams["svg.hashsalt"] = "reward"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(
    axes: Axes, name: str, formula: Callable[[Boxes, Boxes], float], boxes: list[Box], style: dict
) -> None:
    """Plot a path of one box; apart, the distance goes on to the left of 0."""
    is_sliding = boxes[-1] == sliding(1)
    xs = []
    for box in boxes:
        value = iou(box, TARGET)
        gap = box[0] - TARGET[2]
        xs.append((value if value > 0 else -gap) if is_sliding else _area(box))
    axes.plot(xs, [formula([box], [TARGET]) for box in boxes], label=name, **style)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def is_monotonic(formula: Formula) -> bool:
    """Whether a formula never falls while a box slides onto its target."""
    shares = [index / (STEPS - 1) for index in range(STEPS)]
    values = [formula([sliding(share)], [TARGET]) for share in reversed(shares)]
    return all(later >= earlier - 1e-9 for earlier, later in pairwise(values))
