"""verl's FSDP engine with learning rates by parameter name; parameters with rate 0 are frozen.

verl gives every parameter the one rate of ``optim.lr``. Here ``optim.override_optimizer_config``
may hold ``rates``, a list of ``{match: REGEX, lr: RATE}``: the first entry whose expression is
found in a parameter's name sets its rate, and ``optim.lr`` holds for the rest. The schedule scales
all alike. A frozen part (a vision tower, say) costs neither gradients nor optimizer state.

verl imports this module in its workers because ``actor_rollout_ref.model.external_lib`` names it;
registering puts the engine before verl's own.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from verl.utils.device import get_vendor
from verl.workers.config.optimizer import build_optimizer
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead


def rates_by_name(
    names: Iterable[str], entries: Iterable[Mapping[str, Any]], rest: float
) -> dict[str, float]:
    """Learning rate of each parameter.

    Args:
        names: of the parameters.
        entries: ``match`` (regular expression, searched in the name) and ``lr``; the first that
            matches counts.
        rest: rate of what matches none.

    Raises:
        ValueError: an entry matches no parameter, or none is left to train.
    """
    names = list(names)
    wanted = [(str(entry["match"]), float(entry["lr"])) for entry in entries]
    for pattern, _ in wanted:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"override_optimizer_config.rates: no parameter is called like {pattern!r}; "
                f"there are {names[0]}, {names[-1]} and {len(names) - 2} others"
            )
    rates = {
        name: next((rate for pattern, rate in wanted if re.search(pattern, name)), rest)
        for name in names
    }
    if not any(rates.values()):
        raise ValueError("optim.lr and override_optimizer_config.rates leave nothing to train")
    return rates


def parameter_groups(
    parameters: Iterable[tuple[str, torch.nn.Parameter]], rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Optimizer groups, one for each rate above 0, largest rate first."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in parameters:
        if rates[name]:
            groups.setdefault(rates[name], []).append(parameter)
    return [{"params": groups[rate], "lr": rate} for rate in sorted(groups, reverse=True)]


# verl prefers an engine that names the vendor to its own, which names the device only.
@EngineRegistry.register(
    model_type="language_model",
    backend=["fsdp", "fsdp2"],
    device="cuda",
    vendor=get_vendor(),
)
class EngineWithRates(FSDPEngineWithLMHead):
    """verl's engine for language models; without ``rates`` it does what verl's does."""

    def _entries(self) -> list[Mapping[str, Any]]:
        if self.engine_config.forward_only:
            return []
        return list((self.optimizer_config.override_optimizer_config or {}).get("rates", []))

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        if entries := self._entries():
            names = [name for name, _ in module.named_parameters()]
            rates = rates_by_name(names, entries, self.optimizer_config.lr)
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(bool(rates[name]))
        return module

    def _build_optimizer(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        entries = self._entries()
        if not entries:
            return super()._build_optimizer(module)
        named = list(module.named_parameters())
        rates = rates_by_name([name for name, _ in named], entries, self.optimizer_config.lr)
        own = self.optimizer_config.override_optimizer_config
        others = {key: value for key, value in own.items() if key != "rates"}
        config = replace(self.optimizer_config, override_optimizer_config=others)
        return build_optimizer(parameter_groups(named, rates), config)
