"""What the tiny model's vision tower is taught before anything else."""

import pytest
import torch

from phantom.tiny.pretrain import Heads, Picture, Targets

HEART, ZONE = "cardiac silhouette", "right mid lung zone"
OPACITY = (f"opacity in the {ZONE}", ZONE)
PICTURE = Picture(
    image={"image": "a.jpg"},
    findings=(OPACITY,),
    regions={HEART: (0.5, 0.0, 1.0, 1.0), ZONE: (0.0, 0.25, 0.25, 0.5)},
)
CLEAR = Picture(image={"image": "b.jpg"}, findings=(), regions=PICTURE.regions)


@pytest.fixture
def targets() -> Targets:
    return Targets([PICTURE, CLEAR], rows=2, columns=2)


def test_coverage_is_the_share_of_each_cell(targets: Targets) -> None:
    coverage = targets.coverage(PICTURE)
    assert targets.regions == [HEART, ZONE]
    assert torch.equal(coverage[:, 0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    # The zone covers a quarter of the image's width and height: half of cell 0 in each direction.
    assert torch.equal(coverage[:, 1], torch.tensor([0.25, 0.0, 0.0, 0.0]))


def test_a_cell_shows_a_finding_where_its_region_is(targets: Targets) -> None:
    shown = targets.shown(PICTURE, targets.coverage(PICTURE))
    assert targets.findings == [OPACITY]
    assert shown[:, 0].tolist() == [1, 0, 0, 0]


def test_a_clear_picture_shows_nothing(targets: Targets) -> None:
    assert targets.shown(CLEAR, targets.coverage(CLEAR)).sum() == 0


def test_heads_learn_from_features_that_tell(targets: Targets) -> None:
    torch.manual_seed(0)
    heads = Heads(8, targets)
    # One channel for each token's place, one that tells the two pictures apart.
    features = torch.cat([torch.eye(4).expand(2, 4, 4), torch.zeros(2, 4, 4)], dim=2)
    features[0, :, 4] = 1.0
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        loss = heads.loss(features, [PICTURE, CLEAR])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
    assert heads.image(features.mean(dim=1))[:, 0].sign().tolist() == [1, -1]
