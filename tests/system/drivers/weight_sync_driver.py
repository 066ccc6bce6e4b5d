"""Changes the actor and asks the rollout again; prints what each saw as one line of JSON.

Run as a script with the overrides of a training configuration, the last argument being a folder.
"""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

PROMPT = "Is the heart enlarged?"
TOKENS = 8
NOISE = 0.05


def perturb(checkpoint: Path) -> None:
    """Add noise to every weight of an actor checkpoint, in its shards."""
    import torch

    torch.manual_seed(0)
    for shard in checkpoint.glob("model_world_size_*.pt"):
        state = torch.load(shard, weights_only=False)
        for name, value in state.items():
            if value.is_floating_point():
                state[name] = value + NOISE * torch.randn_like(value)
        torch.save(state, shard)


def reference_log_probs(model: str, prompt: list[int], tokens: list[int]) -> list[float]:
    """Log-probabilities of `tokens` behind `prompt`, by transformers."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    # verl writes "bfloat16" into the checkpoint's config although its weights are float32.
    module = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = module(input_ids=torch.tensor([prompt + tokens])).logits[0]
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    return [float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens)]


def ask(client: Any, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Greedy tokens of the rollout and its log-probabilities of them."""
    params = {"temperature": 0.0, "max_tokens": TOKENS, "logprobs": True, "ignore_eos": True}
    output = asyncio.run(client.generate("request", prompt_ids=prompt, sampling_params=params))
    return output.token_ids, output.log_probs


def main(overrides: list[str], folder: Path) -> None:
    """Start the engines, ask, change the actor, synchronise, ask again."""
    from recipe import program
    from recipe.program import compose_config
    from recipe.train.__main__ import prepare

    config = compose_config("train", overrides)
    program.set_environment(config)
    prepare(config)
    import ray
    import transfer_queue as tq
    from omegaconf import OmegaConf

    from recipe.train.trainer import ThinkVGTrainer

    ray.init(**OmegaConf.to_container(config.ray_kwargs.ray_init))
    config.transfer_queue.enable = True
    tq.init(config.transfer_queue)
    trainer = ThinkVGTrainer(config)
    trainer.init()
    client = trainer.get_llm_client()
    prompt = trainer.tokenizer(PROMPT)["input_ids"]
    tokens, before = ask(client, prompt)

    saved, changed = folder / "global_step_1", folder / "global_step_2"
    trainer.actor_rollout_wg.save_checkpoint(str(saved), None, 1)
    shutil.copytree(saved, changed)
    perturb(changed)
    trainer.actor_rollout_wg.load_checkpoint(str(changed), del_local_after_load=False)
    trainer.checkpoint_manager.update_weights(1)
    tokens_after, after = ask(client, prompt)
    trainer.actor_rollout_wg.save_checkpoint(str(folder / "global_step_3"), None, 3)
    result = {
        "before": before,
        "before_reference": reference_log_probs(str(saved / "huggingface"), prompt, tokens),
        "after": after,
        "after_reference": reference_log_probs(
            str(folder / "global_step_3" / "huggingface"), prompt, tokens_after
        ),
        "old_weights_on_new_tokens": reference_log_probs(
            str(saved / "huggingface"), prompt, tokens_after
        ),
    }
    (folder / "result.json").write_text(json.dumps(result))
    tq.close()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:-1], Path(sys.argv[-1]))
