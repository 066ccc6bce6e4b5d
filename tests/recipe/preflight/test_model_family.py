"""The family of a model: what tells it, and whether verl trains it."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig

from data_prep.coordinates import MODEL_FAMILIES
from data_prep.program import InputError
from phantom.tiny.model import IMAGE, TWINS, build_model, build_processor, train_tokenizer
from recipe.preflight.checklist import examine, refuse_faulty
from recipe.preflight.model import family_fault, known_shapes, read_shape
from recipe.program import compose_config

ASK = "import sys; from recipe.preflight.model import hub_config; "
ASK += "print(hub_config(sys.argv[1]).get('model_type'))"


class Hub(http.server.BaseHTTPRequestHandler):
    """Has one model, of a name that tells nothing."""

    def do_GET(self) -> None:
        known = self.path == "/somebody/fine-tuned/resolve/main/config.json"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"model_type": "qwen3_vl"}).encode() if known else b"")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(name: str, home: Path, **variables: str) -> tuple[str, str]:
    """The family that a process of its own finds, and what it says."""
    found = subprocess.run(
        [sys.executable, "-c", ASK, name],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9", **variables},
    )
    return found.stdout.strip(), found.stderr


def test_the_cache_has_the_first_word(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--Qwen--Qwen2.5-VL-7B-Instruct"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "cached"}')
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert ask("Qwen/Qwen2.5-VL-7B-Instruct", tmp_path) == ("cached", "")


def test_the_hub_is_asked(tmp_path: Path, hub: str) -> None:
    assert ask("somebody/fine-tuned", tmp_path, HF_ENDPOINT=hub) == ("qwen3_vl", "")


def test_no_hub_is_asked_offline(tmp_path: Path, hub: str) -> None:
    family, said = ask("somebody/fine-tuned", tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    assert family == "None"
    assert said.startswith("note: model.path=somebody/fine-tuned: its family is unknown")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen2.5-VL-72B-Instruct", "qwen2_5_vl"),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
        ("me/qwen2.5-vl-3b-thinkvg", "qwen2_5_vl"),
        ("me/my_qwen2_5_vl_tuned", "qwen2_5_vl"),
        ("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl"),
        ("somebody/Qwen3.5-4B-tuned", "qwen3_5"),
    ],
)
def test_without_a_hub_the_name_tells(tmp_path: Path, name: str, family: str) -> None:
    assert ask(name, tmp_path) == (family, "")


def test_what_nobody_knows_is_told_on_one_line(tmp_path: Path) -> None:
    family, said = ask("somebody/unknown", tmp_path)
    assert family == "None"
    assert said.count("\n") == 1
    assert "not checked" in said


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Gemma 3 with random weights."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    folder = tmp_path_factory.mktemp("gemma")
    tokenizer = train_tokenizer(["Is there an opacity?"], 50)
    for name in ("boi_token", "eoi_token", "image_token"):
        setattr(tokenizer, name, IMAGE)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(IMAGE))
    processor = Gemma3Processor(Gemma3ImageProcessor(), tokenizer, "{{ messages }}")
    processor.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text = {**sizes, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 500}
    vision = {**sizes, "num_attention_heads": 1, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def of_gemma(program: str, prepared: Path, gemma: Path) -> DictConfig:
    out = "out" if program == "evaluate" else "run_dir"
    folders = {"data.dir": prepared / "data", "model.path": gemma, out: prepared / "never-made"}
    paths = [f"{key}={folder}" for key, folder in folders.items()]
    experiment = {"train": "demo_grpo", "sft": "demo_sft", "evaluate": "demo_evaluate"}[program]
    return compose_config(
        program, ["cluster=cpu", "model=tiny", f"experiment={experiment}", *paths]
    )


@pytest.mark.parametrize("program", ["train", "sft", "evaluate"])
def test_a_family_without_a_processor_in_verl_is_refused(
    program: str, prepared: Path, gemma: Path
) -> None:
    config = of_gemma(program, prepared, gemma)
    with pytest.raises(InputError, match=r"^model\.path=.*: the family gemma3 cannot be trained"):
        refuse_faulty(config, program)
    # what `recipe.preflight` shows: this, and nothing that follows from it
    assert len(examine(config, program).problems) == 1


@pytest.mark.filterwarnings("ignore:Failed to create processor")
def test_verl_has_no_processor_for_gemma(gemma: Path) -> None:
    from verl.utils.tokenizer import hf_processor

    assert hf_processor(str(gemma)) is None


@pytest.mark.parametrize("family", TWINS)
def test_verl_has_a_processor_for_each_twin(tmp_path: Path, family: str) -> None:
    from verl.utils.tokenizer import hf_processor

    processor = build_processor(["the left lung [1, 2, 3, 4]"] * 4, family)
    processor.save_pretrained(tmp_path)
    build_model(processor.tokenizer, 0, family).config.save_pretrained(tmp_path)
    loaded = hf_processor(str(tmp_path))
    assert loaded is not None
    assert callable(loaded.get_rope_index)
    images = loaded.image_processor
    assert images.patch_size * images.merge_size == MODEL_FAMILIES[family].factor


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "qwen2_5_vl"}, ""),
        ({"model_type": "qwen3_5_moe"}, ""),
        ({}, ""),  # nothing is known
        ({"model_type": "qwen2_vl"}, "in which coordinates"),
        ({"model_type": "internvl", "vision_config": {"depth": 1}}, "image processor"),
        ({"model_type": "kimi_vl", "vision_config": {"depth": 1}}, "image processor"),
        ({"model_type": "qwen3"}, "text model"),
    ],
)
def test_other_families_are_refused_for_a_reason(config: dict[str, object], reason: str) -> None:
    fault = family_fault(config, "FOLDER")
    assert bool(fault) == bool(reason)
    assert reason in fault


# Billions of parameters, of the published weights but for the extra layers of Qwen3.5 that predict
# a second token.
SIZES = {
    "Qwen2.5-VL-3B": 3.75,
    "Qwen2.5-VL-7B": 8.29,
    "Qwen2.5-VL-32B": 33.5,
    "Qwen2.5-VL-72B": 73.4,
    "Qwen3-VL-2B": 2.13,
    "Qwen3-VL-4B": 4.44,
    "Qwen3-VL-8B": 8.77,
    "Qwen3-VL-32B": 33.4,
    "Qwen3-VL-30B-A3B": 31.1,
    "Qwen3.5-0.8B": 0.85,
    "Qwen3.5-4B": 4.54,
    "Qwen3.5-9B": 9.41,
    "Qwen3.5-27B": 27.4,
}


@pytest.mark.parametrize("name", known_shapes())
def test_a_shape_has_the_models_parameters(name: str) -> None:
    size = SIZES[name.removeprefix("Qwen/").removesuffix("-Instruct")]
    shape = read_shape(name)
    assert shape.parameters / 1e9 == pytest.approx(size, rel=0.005)
    assert shape.factor == (28 if "Qwen2.5" in name else 32)
