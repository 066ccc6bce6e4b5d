"""Answers one prompt many times with a real vLLM, in groups, and prints the first tokens as JSON.

Run as a script: MODEL_FOLDER DATA_FOLDER GROUPS SIZE CHOICES.
"""

import json
import sys
from pathlib import Path


def main(model: str, data: str, groups: int, size: int, choices: int) -> None:
    """Print a list of groups, each a list of tokens."""
    from omegaconf import OmegaConf

    from recipe import program

    overrides = ["cluster=cpu", "model=tiny", f"model.path={model}", f"data.dir={data}"]
    overrides += ["data.max_prompt_length=256", "data.max_response_length=1"]
    config = program.compose_config("evaluate", overrides)
    program.set_environment(config)
    from transformers import AutoProcessor

    from recipe.evaluate.generation import read_prompts, request_of, start_engine
    from recipe.verl_fixes.rollout_server import group_sampling

    prompt = read_prompts(Path(data) / "val.parquet")[0]
    request = request_of(prompt, AutoProcessor.from_pretrained(model), {})
    lengths = {"prompt_length": 256, "response_length": 1, "max_model_len": 257}
    settings = {"temperature": 1.0, "top_k": choices, "logprobs": True}
    sampling = group_sampling(OmegaConf.create(lengths), size, 100, settings)
    engine = start_engine(config, own_process=False)
    outputs = engine.generate([request] * groups, sampling, use_tqdm=False)
    print(json.dumps([[answer.token_ids[0] for answer in output.outputs] for output in outputs]))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:6]))
