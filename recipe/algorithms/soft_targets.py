"""Cross-entropy with soft targets over neighbouring coordinates.

With one token for each coordinate, plain cross-entropy treats a box edge that is one pixel off like
one at the other end of the image. Here the target of a coordinate n is a Gaussian over all
coordinates k, q(k) proportional to exp(-(k - n)^2 / (2 width^2)); every token that is no number
keeps its single target. Every number in a text counts as a coordinate, so this is for texts whose
numbers are coordinates: pixels up to `LARGEST_PIXEL`, or thousandths of a side. Width 0 would be
plain cross-entropy. The method is Gaussian label smoothing for ordinal classes (Diaz and Marathe,
Soft Labels for Ordinal Regression, CVPR 2019).
"""

from typing import Any

import torch

LARGEST_PIXEL = 336  # the published frame
LARGEST_THOUSANDTH = 1000


def soft_targets(count: int, width: float) -> torch.Tensor:
    """Return target distributions of the coordinates 0..count-1.

    Args:
        count: number of coordinates.
        width: standard deviation of the target in units of coordinates, above 0.

    Returns:
        (count, count) tensor whose row n is the target for coordinate n; rows sum to 1.
    """
    numbers = torch.arange(count, dtype=torch.float32)
    weights = torch.exp(-((numbers[:, None] - numbers) ** 2) / (2 * width**2))
    return weights / weights.sum(dim=1, keepdim=True)


def soft_log_probs(
    logits: torch.Tensor, labels: torch.Tensor, coordinate_ids: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the expected log-probability of each position under its target.

    Args:
        logits: (N, V) tensor.
        labels: (N,) token ids.
        coordinate_ids: (C,) token ids of the coordinates 0..C-1.
        targets: (C, C) tensor from `soft_targets`.

    Returns:
        (N,) tensor: log p(label), or for a coordinate the mean of log p under its soft target.
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    plain = log_probs.gather(1, labels[:, None]).squeeze(1)
    coordinate_of = torch.full((logits.shape[1],), -1, dtype=torch.long, device=logits.device)
    coordinate_of[coordinate_ids] = torch.arange(len(coordinate_ids), device=logits.device)
    coordinates = coordinate_of[labels]
    rows = (coordinates >= 0).nonzero(as_tuple=True)[0]
    soft = (log_probs[rows][:, coordinate_ids] * targets[coordinates[rows]]).sum(dim=1)
    return plain.index_put((rows,), soft)


def coordinate_ids(tokenizer: Any) -> list[int]:
    """Return the token ids of the coordinates 0..1000, or 0..336 if only those are tokens.

    Raises:
        ValueError: a coordinate up to 336 is not a token of its own; names the first.
    """
    ids: dict[int, int] = {}
    for number in range(LARGEST_THOUSANDTH + 1):
        pieces = tokenizer.encode(str(number), add_special_tokens=False)
        if len(pieces) == 1 and pieces[0] not in ids:
            ids[pieces[0]] = number
        elif number > LARGEST_PIXEL:
            return list(ids)[: LARGEST_PIXEL + 1]
        else:
            raise ValueError(f"the tokenizer has no token of its own for the number {number}")
    return list(ids)
