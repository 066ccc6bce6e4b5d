"""What image tokens should know, and how well they do.

Every image token learns where it is, which share of it each region covers and which findings it
shows; their mean learns which findings the image as a whole has. The linear heads that read this
are thrown away after the training.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from recipe.tiny.pictures import Picture

SHOWN_FROM = 0.15  # a token shows a finding whose region covers at least this share of it
WEIGHTS = {"place": 0.3, "regions": 1.0, "findings": 3.0, "image": 1.0}


class Targets:
    """Turns pictures into what the tokens of a `rows` x `columns` grid should know."""

    def __init__(self, pictures: Sequence[Picture], rows: int, columns: int) -> None:
        self.grid = (rows, columns)
        self.regions = sorted({name for picture in pictures for name in picture.regions})
        self.findings = sorted({each for picture in pictures for each in picture.findings})

    def coverage(self, picture: Picture) -> torch.Tensor:
        """Share of each token's cell that each region covers, (tokens, regions), 0..1."""
        rows, columns = self.grid
        shares = []
        for name in self.regions:
            x1, y1, x2, y2 = picture.regions.get(name, (0.0, 0.0, 0.0, 0.0))
            wide = _covered(x1 * columns, x2 * columns, columns)
            shares.append((_covered(y1 * rows, y2 * rows, rows)[:, None] * wide).flatten())
        return torch.stack(shares, dim=1)

    def shown(self, picture: Picture, coverage: torch.Tensor) -> torch.Tensor:
        """Whether each token shows each finding, (tokens, findings), 0 or 1."""
        columns = [
            (coverage[:, self.regions.index(region)] > SHOWN_FROM) * ((name, region) in findings)
            for findings in [set(picture.findings)]
            for name, region in self.findings
        ]
        return torch.stack(columns, dim=1).float()


def _covered(start: float, end: float, cells: int) -> torch.Tensor:
    edges = torch.arange(cells + 1, dtype=torch.float32)
    return (edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0)


class Heads(torch.nn.Module):
    """Linear readers of the image tokens, and the loss of what they read."""

    def __init__(self, width: int, targets: Targets) -> None:
        super().__init__()
        self.targets = targets
        rows, columns = targets.grid
        self.place = torch.nn.Linear(width, rows * columns)
        self.regions = torch.nn.Linear(width, len(targets.regions))
        self.findings = torch.nn.Linear(width, len(targets.findings))
        self.image = torch.nn.Linear(width, len(targets.findings))

    def loss(self, features: torch.Tensor, pictures: Sequence[Picture]) -> torch.Tensor:
        """Weighted sum of cross-entropies.

        Args:
            features: image tokens, (images, tokens, width).
            pictures: one for each image.
        """
        coverages = [self.targets.coverage(picture) for picture in pictures]
        pairs = zip(pictures, coverages, strict=True)
        shown = torch.stack([self.targets.shown(*pair) for pair in pairs])
        coverage = torch.stack(coverages)
        places = torch.arange(features.shape[1]).expand(len(pictures), -1)
        binary = functional.binary_cross_entropy_with_logits
        losses = {
            "place": functional.cross_entropy(self.place(features).transpose(1, 2), places),
            "regions": binary(self.regions(features), coverage),
            "findings": binary(self.findings(features), shown),
            "image": binary(self.image(features.mean(dim=1)), shown.amax(dim=1)),
        }
        return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
