"""Checks ahead of a run: whether the judge of a preset could be asked, without asking it."""

import importlib.util
import os
from typing import Any

from reward.judge.settings import JudgeSettings

PACKAGES = ("httpx", "tenacity", "diskcache")


def check_ready(kwargs: Any, router_address: str | None = None) -> JudgeSettings:
    """Check a preset's `judge`; returns it with an address.

    `router_address` stands for the judge that verl will serve. Raises ValueError for a wrong
    setting, a missing address, key or package, in one line.
    """
    settings = JudgeSettings.from_kwargs(kwargs).at(router_address)
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ValueError(missing_package(package))
    if settings.api_key_env and not os.environ.get(settings.api_key_env):
        raise ValueError(f"judge.api_key_env: the variable {settings.api_key_env} is not set")
    return settings


def missing_package(name: str | None) -> str:
    """What to say where a package of the extra `judge` is missing."""
    return f"a judge needs the package {name}: pip install 'thinkvg-rl[judge]'"
