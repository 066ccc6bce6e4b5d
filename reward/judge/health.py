"""Whether a judge answers, asked with the client that training uses; no response is sent."""

import asyncio
from dataclasses import replace

from reward.judge.chat import ChatClient
from reward.judge.faults import JudgeFault
from reward.judge.settings import JudgeSettings

LONGEST_WAIT_S = 10.0


def check_health(settings: JudgeSettings) -> str:
    """Ask the server for its models; returns the one that will judge.

    `settings` have an address. Raises ValueError, in one line, where the server does not answer or
    does not offer the model.
    """
    patience = replace(settings, timeout_s=min(settings.timeout_s, LONGEST_WAIT_S))
    try:
        return asyncio.run(_model(patience))
    except JudgeFault as fault:
        raise ValueError(
            f"judge.base_url={settings.base_url}: {fault}: start the judge's server there, or "
            "correct the address"
        ) from None


async def _model(settings: JudgeSettings) -> str:
    client = ChatClient(settings)
    try:
        async with client.slot() as slot:
            if settings.model is None:
                return await slot.only_model()
            offered = await slot.models()
    finally:
        await client.aclose()
    if settings.model not in offered:
        raise ValueError(
            f"judge.model={settings.model}: the server at {settings.base_url} offers "
            f"{', '.join(offered) or 'none'}: set judge.model to one of these"
        )
    return settings.model
