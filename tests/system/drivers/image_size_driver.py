"""Records the image sizes that vLLM's vision tower is given, beside those of the ground truth.

Run as a script: MODEL_FOLDER DATA_FOLDER OUTPUT_FOLDER.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(model: str, data: str, out: Path) -> None:
    """Answer a few questions one by one and write ``sizes.json``."""
    # The engine in this process, so that the vision tower can be watched.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from recipe import program
    from recipe.program import compose_config

    config = compose_config(
        "evaluate",
        [
            *("cluster=cpu", "model=tiny", f"model.path={model}", f"data.dir={data}"),
            *("data.max_prompt_length=256", "data.max_response_length=16"),
        ],
    )
    program.set_environment(config)
    from transformers import AutoProcessor
    from vllm import SamplingParams

    from recipe.evaluate.generation import answer, read_prompts, start_engine

    engine = start_engine(config, own_process=False)
    processor = AutoProcessor.from_pretrained(model)
    patch = processor.image_processor.patch_size
    seen: list[list[int]] = []
    runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner

    def record(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        grid = named["grid_thw"] if "grid_thw" in named else arguments[1]
        for _, height, width in [list(row) for row in grid]:
            seen.append([int(width) * patch, int(height) * patch])

    runner.model.visual.register_forward_pre_hook(record, with_kwargs=True)
    prompts, chosen, images = read_prompts(Path(data) / "train.parquet"), [], set()
    for prompt in prompts:
        if prompt.images[0]["image"] not in images and len(chosen) < 8:
            images.add(prompt.images[0]["image"])
            chosen.append(prompt)
    params = SamplingParams(temperature=0.0, max_tokens=2)
    for prompt in chosen:
        answer(engine, processor, [prompt], params, keep=lambda *_: None)
    wanted = [json.loads(prompt.ground_truth)["image_size"] for prompt in chosen]
    (out / "sizes.json").write_text(json.dumps({"seen": seen, "ground_truth": wanted}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
