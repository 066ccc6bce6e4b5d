"""One judge for each event loop and settings, made when the first response needs it.

Connections belong to the event loop that made them. verl's reward workers keep one loop for the
whole run; a command may run one after another.
"""

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from reward.judge.judge import Judge
from reward.judge.settings import JudgeSettings

_JUDGES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[JudgeSettings, Judge]]
_JUDGES = WeakKeyDictionary()
_MOST_READ = 64
_READ: dict[tuple[int, str | None], tuple[Any, JudgeSettings]] = {}


def read_settings(kwargs: Any, router_address: str | None) -> JudgeSettings:
    """Return a preset's checked `judge` with an address.

    Objects are remembered as read, since verl passes the same one with every response; they must
    not be changed afterwards. Raises ValueError naming the key at fault.
    """
    key = (id(kwargs), router_address)
    remembered = _READ.get(key)
    # The object is kept with its settings, so its id cannot be another's.
    if remembered is not None and remembered[0] is kwargs:
        return remembered[1]
    settings = JudgeSettings.from_kwargs(kwargs).at(router_address)
    if isinstance(kwargs, Mapping):
        if len(_READ) >= _MOST_READ:
            _READ.clear()
        _READ[key] = (kwargs, settings)
    return settings


def judge_for(settings: JudgeSettings) -> Judge:
    """Return the judge of the running event loop."""
    judges = _JUDGES.setdefault(asyncio.get_running_loop(), {})
    if settings not in judges:
        judges[settings] = Judge(settings)
    return judges[settings]


async def close_judges() -> None:
    """Close the judges of the running event loop."""
    for judge in _JUDGES.pop(asyncio.get_running_loop(), {}).values():
        await judge.aclose()
