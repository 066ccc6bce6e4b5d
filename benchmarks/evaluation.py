"""How long the tiny model takes to answer phantom questions: this recipe and plain transformers.

`python -m benchmarks.evaluation MODEL DATA [--questions N] [--batch B] [--limit TOKENS]` answers
the same questions greedily, first with `recipe.evaluate`'s engine (vLLM), then with
`transformers.generate` batch by batch, each in a separate process on this machine. The time to load
the model is reported separately. The model must be trained, since an untrained one never ends an
answer. Questions come from the training split of DATA, which has enough of them.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import run_again
from recipe import program

ENGINES = ("vllm", "transformers")


def answer_with_vllm(options: argparse.Namespace, prompts: list[Any]) -> tuple[float, list[str]]:
    """Return seconds and responses with the engine of `recipe.evaluate`."""
    from recipe.evaluate.generation import LocalModel

    overrides = [
        *("cluster=cpu", "model=tiny", f"model.path={options.model}", f"data.dir={options.data}"),
        *("data.max_prompt_length=256", f"data.max_response_length={options.limit}"),
    ]
    model = LocalModel(program.compose_config("evaluate", overrides))
    answers: list[str] = []
    with tqdm(total=len(prompts), desc="vllm", unit="question") as bar:

        def keep(_: Any, responses: list[Any]) -> None:
            answers.append(responses[0].text)
            bar.update()

        start = time.perf_counter()
        model.answer(prompts, temperature=0.0, samples=1, keep=keep)
        seconds = time.perf_counter() - start
    return seconds, answers


def answer_with_transformers(
    options: argparse.Namespace, prompts: list[Any]
) -> tuple[float, list[str]]:
    """Return seconds and responses with `generate`, in batches padded on the left."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from recipe.data.prompts import prompt_text
    from recipe.evaluate.generation import load_image

    processor = AutoProcessor.from_pretrained(options.model, padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(options.model, dtype="float32").eval()
    patch = processor.image_processor.patch_size
    answers: list[str] = []
    with tqdm(total=len(prompts), desc="transformers", unit="question") as bar:
        start = time.perf_counter()
        for first in range(0, len(prompts), options.batch):
            batch = prompts[first : first + options.batch]
            inputs = processor(
                text=[prompt_text(prompt.messages, processor) for prompt in batch],
                images=[[load_image(prompt, patch)] for prompt in batch],
                padding=True,
                return_tensors="pt",
                images_kwargs={"do_resize": False},
            )
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=options.limit)
            new = tokens[:, inputs["input_ids"].shape[1] :]
            answers += processor.tokenizer.batch_decode(new, skip_special_tokens=True)
            bar.update(len(batch))
        seconds = time.perf_counter() - start
    return seconds, answers


def run_engine(options: argparse.Namespace) -> None:
    """Answer with the engine of the options and print the result as the last line."""
    from recipe.evaluate.generation import read_prompts

    begin = time.perf_counter()
    program.set_environment(program.compose_config("evaluate", ["cluster=cpu", "data.dir=D"]))
    prompts = read_prompts(options.data / "train.parquet")[: options.questions]
    answer = answer_with_vllm if options.engine == "vllm" else answer_with_transformers
    seconds, answers = answer(options, prompts)
    loading = time.perf_counter() - begin - seconds
    print(json.dumps({"seconds": seconds, "loading": loading, "answers": answers}))


def compare_engines(options: argparse.Namespace) -> None:
    """Run each engine in a process and print their times."""
    results: dict[str, Any] = {}
    for engine in ENGINES:
        result = results[engine] = run_again("benchmarks.evaluation", "--engine", engine)
        print(
            f"{engine}: {options.questions} questions in {result['seconds']:.1f} s "
            f"({options.questions / result['seconds']:.1f}/s), and "
            f"{result['loading']:.1f} s to load"
        )
    pairs = zip(*(results[engine]["answers"] for engine in ENGINES), strict=True)
    same = sum(first == second for first, second in pairs) / options.questions
    ratio = results["transformers"]["seconds"] / results["vllm"]["seconds"]
    print(f"{ratio:.2f} times as fast; {same:.1%} of the answers are the same text")


def main() -> None:
    """Compare both engines, or run only the one in `--engine`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("model", type=Path, help="Hugging Face folder of a trained tiny model")
    parser.add_argument("data", type=Path, help="folder of data_prep.thinkvg")
    parser.add_argument("--questions", type=int, default=2000, help="(2000)")
    parser.add_argument("--batch", type=int, default=32, help="of transformers (32)")
    parser.add_argument("--limit", type=int, default=176, help="tokens of a response (176)")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        run_engine(options)
        return
    for path in (options.model / "config.json", options.data / "train.parquet"):
        if not path.is_file():
            parser.error(
                f"{path} is missing: MODEL is a Hugging Face folder, such as a checkpoint's "
                "huggingface/, and DATA a folder of data_prep.thinkvg"
            )
    compare_engines(options)


if __name__ == "__main__":
    main()
