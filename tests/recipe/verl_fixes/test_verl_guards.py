"""The guards against faults of verl."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from recipe.verl_fixes.plugin import (
    fix_position_ids,
    install_guards,
    log_probs_of,
    ragged_over_length,
)


def sample(length: int, seed: int) -> torch.Tensor:
    """Position ids of one sample, (4, length)."""
    return torch.randint(0, 99, (4, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "lengths",
    [
        [7, 5, 9],  # torch finds the ragged axis by itself
        [6, 6, 6],  # all the same: torch takes the axis of length 4
        [4, 4],  # as long as there are channels
        [8, 8],  # as long as there are channels in all samples together
        [64] * 16,  # the same, as it came in a run
        [1, 1, 2],  # as many positions in all as there are channels
        [4],
        [6],  # a single sample
        [1, 1, 1],  # the shortest there is
    ],
)
def test_samples_come_out_as_they_went_in(lengths: list[int]) -> None:
    samples = [sample(length, seed) for seed, length in enumerate(lengths)]
    nested = torch.nested.as_nested_tensor(samples, layout=torch.jagged)
    fixed = ragged_over_length(nested)
    assert fixed._ragged_idx == 2
    assert fixed.offsets().diff().tolist() == lengths
    for got, wanted in zip(fixed.unbind(), samples, strict=True):
        assert got.equal(wanted)


def test_the_fault_is_there_without_the_guard() -> None:
    nested = torch.nested.as_nested_tensor([sample(6, 0), sample(6, 1)], layout=torch.jagged)
    nested._ragged_idx = 2  # what verl does
    assert nested.offsets().diff().tolist() != [6, 6]


def test_padding_works_after_the_guard() -> None:
    samples = [sample(6, 0), sample(6, 1)]
    nested = torch.nested.as_nested_tensor(samples, layout=torch.jagged)
    padded = torch.nested.to_padded_tensor(
        ragged_over_length(nested), padding=0, output_size=(2, 4, 6)
    )
    assert padded.equal(torch.stack(samples))


def test_a_batch_is_fixed_in_place() -> None:
    samples = [sample(6, 0), sample(6, 1)]
    data = TensorDict(
        {"position_ids": torch.nested.as_nested_tensor(samples, layout=torch.jagged)},
        batch_size=[2],
    )
    fix_position_ids(data)
    assert data["position_ids"].offsets().diff().tolist() == [6, 6]


def test_text_positions_and_absent_ones_are_left_alone() -> None:
    flat = torch.nested.as_nested_tensor([torch.arange(3), torch.arange(3)], layout=torch.jagged)
    data = TensorDict({"position_ids": flat}, batch_size=[2])
    fix_position_ids(data)
    assert data["position_ids"] is not None
    fix_position_ids(TensorDict({}, batch_size=[2]))


def test_verl_uses_the_guard() -> None:
    from verl.workers import engine_workers
    from verl.workers.engine import base

    assert engine_workers.maybe_fix_3d_position_ids is fix_position_ids
    assert base.maybe_fix_3d_position_ids is fix_position_ids


def test_a_plugin_that_does_not_load_ends_the_process() -> None:
    program = (
        "import importlib.metadata as metadata; version = metadata.version;"
        "metadata.version = lambda name: '0' if name == 'verl' else version(name); import verl"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "thinkvg-rl: its verl plugin did not load: verl" in ended.stderr.splitlines()[-1]


def test_an_engine_does_not_ask_for_trl() -> None:
    """verl patches a class that TRL 1.16 no longer has; a fresh process, as the plugin loads in."""
    code = (
        "import verl.models.transformers.monkey_patch as patch, verl.utils.import_utils as utils;"
        "assert not patch.is_trl_available() and not utils.is_trl_available()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("shape", [(1, 7), (3000, 11), (2, 5, 11)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_and_gradients_are_exact(shape: tuple[int, ...], dtype: Any) -> None:
    def exact(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.double().log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)

    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.randint(shape[-1], shape[:-1], generator=torch.Generator().manual_seed(1))
    results = []
    for function in (exact, log_probs_of(exact)):
        inputs = logits.clone().requires_grad_()
        values = function(inputs, labels)
        (values * torch.arange(values.numel()).reshape(values.shape)).sum().backward()
        results.append((values.double(), inputs.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1])


def test_rows_without_a_picture_run_through_the_vision_tower() -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration
    from verl.models.transformers.qwen2_vl import _get_input_embeds

    from phantom.tiny.model import build_model, train_tokenizer

    install_guards()
    model = build_model(train_tokenizer(["the left lung [1, 2, 3, 4]"], 50), seed=0)
    assert isinstance(model, Qwen2_5_VLForConditionalGeneration)
    ids = torch.tensor([[1, 2, 3]])
    embeddings, _ = _get_input_embeds(model.model, ids, torch.ones_like(ids))
    assert embeddings.equal(model.get_input_embeddings()(ids))
    embeddings.sum().backward()
    assert all(weight.grad is not None for weight in model.model.visual.merger.parameters())
