"""vLLM's rollout server, which ends with its engine.

vLLM's engine is a process of its own. Where it dies while nothing is generated, the server lives
on, and verl 0.9.1 waits without end for it to take the next weights. Here the server then ends as
well: an actor of Ray has died, which the run's watch sees (`recipe.actor_watch`).
"""

import asyncio
import os
import sys
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

EVERY = 1.0
"""Seconds between two looks at the engine."""


class WatchedHttpServer(vLLMHttpServer):
    """verl's server, a watch over its engine beside it."""

    async def run_server(self, args: Any) -> None:
        """Start the engine and the server; see verl's."""
        await super().run_server(args)
        self._engine_watch = asyncio.create_task(self._end_with_engine())

    async def _end_with_engine(self) -> None:
        while not self.engine.errored:
            await asyncio.sleep(EVERY)
        print("vLLM's engine has ended, its server ends as well", file=sys.stderr, flush=True)
        os._exit(1)


class WatchedReplica(vLLMReplica):
    """verl's replica of vLLM, with servers that end with their engines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(WatchedHttpServer)
