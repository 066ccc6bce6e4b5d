"""How long the processes of the cold start wait for one of them."""

from datetime import timedelta
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from recipe.sft.trainer import run


class Begun(Exception):
    """The process group would be made now."""


def test_the_setting_bounds_every_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*, timeout: timedelta, **options: Any) -> None:
        del options
        raise Begun(timeout)

    monkeypatch.setattr(torch.distributed, "init_process_group", begin)
    with pytest.raises(Begun) as begun:
        run(OmegaConf.create({"stuck_s": 90}))
    assert begun.value.args == (timedelta(seconds=90),)
