"""verl's FSDP engine with learning rates by parameter name, and a base in bfloat16 that is exact.

verl uses the rate ``optim.lr`` for every parameter. Here ``optim.override_optimizer_config`` may
have ``rates``, a list of ``{match: REGEX, lr: RATE}``: the first entry whose expression matches in
a parameter's name sets its rate, and ``optim.lr`` is the rate of all others. The schedule scales
all rates alike. A part with rate 0, such as a vision tower, is frozen: it needs no gradients and no
optimizer state. With LoRA only adapters are trained, at the rates of their names. Adapters and
RoPE's frequencies are in float32, whatever the type of the base.

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
    """Return the learning rate of each parameter.

    Args:
        names: names of the parameters.
        entries: ``match`` (regular expression, searched in the name) and ``lr``; the first entry
            that matches applies.
        rest: rate of the parameters that match no entry.

    Raises:
        ValueError: an entry matches no parameter, or none is left to train.
    """
    names = list(names)
    patterns = [(str(entry["match"]), float(entry["lr"])) for entry in entries]
    for pattern, _ in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"override_optimizer_config.rates: no parameter's name matches {pattern!r}; "
                f"there are {names[0]}, {names[-1]} and {len(names) - 2} others"
            )
    rates = {
        name: next((rate for pattern, rate in patterns if re.search(pattern, name)), rest)
        for name in names
    }
    if not any(rates.values()):
        raise ValueError("optim.lr and override_optimizer_config.rates leave nothing to train")
    return rates


def parameter_groups(
    parameters: Iterable[tuple[str, torch.nn.Parameter]], rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return optimizer groups of the trained parameters, one for each rate, largest rate first."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in parameters:
        if rates[name] and parameter.requires_grad:
            groups.setdefault(rates[name], []).append(parameter)
    return [{"params": groups[rate], "lr": rate} for rate in sorted(groups, reverse=True)]


def restore_frequencies(model: Any) -> None:
    """Compute RoPE's frequencies of a transformers model anew, in float32.

    verl 0.9.1 converts a model to the type of its weights, buffers included. In bfloat16, angles
    would be wrong by 1 rad at a distance of some 1000 tokens, and vLLM's are not.
    """
    for part in model.modules():
        names = [name for name, _ in part.named_buffers(recurse=False) if "inv_freq" in name]
        if any(getattr(part, name).dtype != torch.float32 for name in names):
            for name in names:
                setattr(part, name, getattr(part, name).float())
            model._init_weights(part)


# verl prefers an engine with a vendor to its own engine, which has a device only.
@EngineRegistry.register(
    model_type="language_model", backend=["fsdp", "fsdp2"], device="cuda", vendor=get_vendor()
)
class EngineWithRates(FSDPEngineWithLMHead):
    """verl's engine for language models; without ``rates`` and adapters it behaves like verl's."""

    def _entries(self) -> list[Mapping[str, Any]]:
        if self.engine_config.forward_only:
            return []
        return list((self.optimizer_config.override_optimizer_config or {}).get("rates", []))

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        restore_frequencies(module)
        if entries := self._entries():
            names = [name for name, _ in module.named_parameters()]
            rates = rates_by_name(names, entries, self.optimizer_config.lr)
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(bool(rates[name]))
        return module

    def _build_lora_module(self, module: torch.nn.Module) -> torch.nn.Module:
        """Add adapters in float32: verl's have the base's type, and bfloat16 loses most steps."""
        module = super()._build_lora_module(module)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return module

    def _build_optimizer(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        entries = self._entries()
        if not entries:
            return super()._build_optimizer(module)
        parameters = list(module.named_parameters())
        rates = rates_by_name([name for name, _ in parameters], entries, self.optimizer_config.lr)
        options = dict(self.optimizer_config.override_optimizer_config)
        del options["rates"]  # not an option of optimizers
        config = replace(self.optimizer_config, override_optimizer_config=options)
        return build_optimizer(parameter_groups(parameters, rates), config)
