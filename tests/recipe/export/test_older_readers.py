"""Settings in the forms of transformers 4: what is written, and that transformers 5 reads the same.

That transformers 4.57 gives the same greedy texts is shown in tests/system/test_training.py.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, Qwen3VLConfig

from phantom.tiny.model import build_model, build_processor
from recipe.export import add_older_forms
from recipe.export import main as export

TEXT = "<think>the left lung [1, 2, 3, 4] is clear</think><answer>Yes</answer>"
SECTION = [4, 6, 6]


def config_of(folder: Path) -> dict[str, Any]:
    """What transformers 5 makes of the configuration."""
    return dict(AutoConfig.from_pretrained(folder).to_dict()) | {"_name_or_path": ""}


def load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as transformers 5 saves it."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    processor = build_processor([TEXT])
    # the default, which other tests change: transformers keeps it in the class
    processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 1003520}
    build_model(processor.tokenizer, seed=1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def both(plain: Path, tmp_path: Path) -> Path:
    """The same with the older forms."""
    folder = Path(shutil.copytree(plain, tmp_path / "both"))
    add_older_forms(folder)
    return folder


def test_what_transformers_4_reads_is_there(both: Path):
    text = load(both / "config.json")["text_config"]
    assert text["rope_theta"] == 10000.0
    assert text["rope_scaling"] == {"rope_type": "default", "mrope_section": SECTION}
    tokenizer = load(both / "tokenizer_config.json")
    assert "extra_special_tokens" not in tokenizer  # 4.57 takes a mapping only
    assert "<|image_pad|>" in tokenizer["additional_special_tokens"]
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    images = load(both / "preprocessor_config.json")
    assert images["image_processor_type"] == "Qwen2VLImageProcessor"
    assert images["processor_class"] == "Qwen2_5_VLProcessor"
    assert (images["min_pixels"], images["max_pixels"]) == (3136, 1003520)
    assert load(both / "video_preprocessor_config.json")["video_processor_type"]
    # both versions read the .jinja file; transformers 5 would prefer a .json and pass over changes
    assert (both / "chat_template.jinja").is_file()
    assert not (both / "chat_template.json").exists()


def test_transformers_5_reads_the_same_as_before(plain: Path, both: Path):
    assert config_of(both) == config_of(plain)
    before, after = (AutoProcessor.from_pretrained(folder) for folder in (plain, both))
    assert after.chat_template == before.chat_template
    assert after.image_processor.to_dict() == before.image_processor.to_dict()
    assert after.video_processor.to_dict() == before.video_processor.to_dict()
    one, two = before.tokenizer, after.tokenizer
    assert type(one) is type(two)
    assert one.special_tokens_map == two.special_tokens_map
    ids = one.encode(f"<|im_start|>user\n{TEXT}<|im_end|>")
    assert two.encode(f"<|im_start|>user\n{TEXT}<|im_end|>") == ids
    for skip in (True, False):
        assert one.decode(ids, skip_special_tokens=skip) == two.decode(
            ids, skip_special_tokens=skip
        )


def test_a_second_time_changes_nothing(both: Path):
    before = {file.name: file.read_bytes() for file in both.iterdir()}
    add_older_forms(both)
    assert {file.name: file.read_bytes() for file in both.iterdir()} == before


def test_what_was_loaded_and_saved_gets_them_again(both: Path, tmp_path: Path):
    again = tmp_path / "again"
    AutoModelForImageTextToText.from_pretrained(both).save_pretrained(again)
    AutoProcessor.from_pretrained(both).save_pretrained(again)
    add_older_forms(again)
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        one, two = (load(folder / name) for folder in (both, again))
        assert {key: two[key] for key in one} == one
    one, two = (load(folder / "config.json")["text_config"] for folder in (both, again))
    assert {key: two[key] for key in one} == one


DTYPES = [(torch.float32, "float32"), (torch.bfloat16, "bfloat16"), (torch.float16, "float16")]


@pytest.mark.parametrize(("kind", "name"), DTYPES)
def test_the_precision_is_that_of_the_weights(plain: Path, tmp_path: Path, kind: Any, name: str):
    folder = Path(shutil.copytree(plain, tmp_path / "model"))
    weights = AutoModelForImageTextToText.from_pretrained(plain).state_dict()
    kept = {key: value.to(kind) for key, value in weights.items() if key != "lm_head.weight"}
    # A few weights of another precision, as some models keep them.
    norm = next(key for key in kept if key.endswith("norm.weight"))
    kept[norm] = kept[norm].double()
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = load(folder / "config.json")
    config["dtype"] = config["text_config"]["dtype"] = "bfloat16" if name != "bfloat16" else "half"
    (folder / "config.json").write_text(json.dumps(config))
    add_older_forms(folder)
    config = load(folder / "config.json")
    assert config["dtype"] == config["torch_dtype"] == config["text_config"]["dtype"] == name
    assert AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").dtype == kind


def test_a_folder_without_weights_keeps_its_precision(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    add_older_forms(tmp_path)
    assert load(tmp_path / "config.json") == {"dtype": "bfloat16", "torch_dtype": "bfloat16"}


ROPES = [
    # Qwen3-VL's: transformers 4.57 wants the interleaving beside the section.
    (
        {"rope_type": "default", "mrope_section": SECTION, "mrope_interleaved": True},
        {"rope_type": "default", "mrope_section": SECTION, "mrope_interleaved": True},
    ),
    ({"rope_type": "yarn", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}),
    ({"rope_type": "default"}, None),
]


@pytest.mark.parametrize(("rope", "scaling"), ROPES)
def test_other_kinds_of_rope(tmp_path: Path, rope: dict[str, Any], scaling: Any):
    Qwen3VLConfig(text_config={"rope_parameters": {**rope, "rope_theta": 7e6}}).save_pretrained(
        tmp_path
    )
    before = config_of(tmp_path)
    add_older_forms(tmp_path)
    text = load(tmp_path / "config.json")["text_config"]
    assert text["rope_theta"] == 7e6
    found = text["rope_scaling"]
    assert found == scaling or scaling.items() <= found.items()
    assert config_of(tmp_path) == before


def test_rope_of_layers_of_different_kinds_is_left_alone(tmp_path: Path):
    rope = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    (tmp_path / "config.json").write_text(json.dumps({"rope_parameters": rope}))
    add_older_forms(tmp_path)
    assert load(tmp_path / "config.json") == {"rope_parameters": rope}


def test_a_mapping_of_special_tokens_stays(tmp_path: Path):
    config = {"extra_special_tokens": {"image_token": "<i>"}, "tokenizer_class": "Qwen2Tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    add_older_forms(tmp_path)
    assert load(tmp_path / "tokenizer_config.json") == config


@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_an_export_has_the_older_forms(plain: Path, tmp_path: Path, dtype: str):
    assert export([str(plain), str(tmp_path / "out"), "--dtype", dtype]) == 0
    config = load(tmp_path / "out" / "config.json")
    assert config["torch_dtype"] == ("float32" if dtype == "keep" else dtype)
    assert config["text_config"]["rope_theta"] == 10000.0
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
