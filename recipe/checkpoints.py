"""Where the model is in what a run leaves: a Hugging Face folder, or shards still to be merged.

verl writes `CHECKPOINTS/global_step_N/huggingface` after SFT and `…/actor/huggingface` after GRPO.
That folder always holds configuration, tokenizer and processor; it holds the weights where
`checkpoint.save_contents` has `hf_model`, and otherwise they are in `model_world_size_W_rank_R.pt`
beside it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically

LAST = "latest_checkpointed_iteration.txt"


@dataclass(frozen=True)
class Source:
    """A model as it was found.

    Attributes:
        folder: Hugging Face folder with configuration and tokenizer.
        shards: folder with the ranks' shards; None where `folder` has the weights.
        lora: whether the shards hold LoRA adapters.
    """

    folder: Path
    shards: Path | None = None
    lora: bool = False


def find_model(path: str | Path, key: str) -> Source:
    """Find the model under `path`.

    Args:
        path: a Hugging Face folder; or of verl: an `actor` folder, a `global_step_N` or a folder of
            them (the last whole step is taken), or a run folder with `checkpoints` in it.
        key: what the user calls the path, for the message.

    Raises:
        InputError: there is no model; the message says what was looked for.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{key}={path}: no such folder")
    for folder in _candidates(root):
        huggingface = folder / "huggingface"
        lora = (folder / "lora_train_meta.json").is_file()
        if lora and _shards(folder):
            # What verl writes as `hf_model` of a LoRA run has the adapters' names in it.
            return Source(huggingface, folder, lora=True)
        if _has_weights(huggingface):
            return Source(huggingface)
        if _shards(folder) and (huggingface / "config.json").is_file():
            return Source(huggingface, folder)
        if _has_weights(folder):
            return Source(folder)
    raise InputError(
        f"{key}={path}: no model in it; give a folder with config.json and *.safetensors, or a "
        "checkpoint of recipe.sft or recipe.train (global_step_N)"
    )


def last_step(holder: Path) -> int:
    """The step of the last whole checkpoint in a folder of them, by its marker; 0 without one.

    verl 0.9.1's GRPO trainer empties the marker before it writes it, behind the last file of a
    checkpoint. A run that was killed in between leaves it empty: it is then written anew.

    Raises:
        InputError: the marker holds something else than a step.
    """
    marker = holder / LAST
    if not marker.is_file():
        return 0
    said = marker.read_text(encoding="utf-8").strip()
    if said.isdecimal():
        return int(said)
    if said:
        raise InputError(
            f"{marker} holds {said!r}, not a step: write the step to go on from into it"
        )
    whole = [
        _step(path.parent) or 0
        for path in holder.glob("global_step_*/data.pt")
        # verl leaves data.pt behind where it removes an old checkpoint
        if (path.parent / "actor").is_dir()
    ]
    mark_step(holder, max(whole, default=0))
    return max(whole, default=0)


def mark_step(holder: Path, step: int) -> None:
    """Have a run in this folder of checkpoints go on behind `step`; 0 has it begin anew."""
    if step:
        write_text_atomically(holder / LAST, str(step))
    else:
        (holder / LAST).unlink(missing_ok=True)


def run_folder(source: Source) -> Path | None:
    """The folder of the run that wrote a checkpoint; None for a folder from elsewhere."""
    for parent in source.folder.resolve().parents:
        if parent.name == "checkpoints":
            return parent.parent
    return None


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, empty where there is no such file."""
    if not path.is_file():
        return {}
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _candidates(root: Path) -> list[Path]:
    """Folders that may be a checkpoint, the likeliest first."""
    for holder in (root, root / "checkpoints"):
        steps = [path for path in holder.glob("global_step_*") if _step(path) is not None]
        if steps:
            last = max(steps, key=lambda path: _step(path) or 0)
            marked = holder / LAST
            if marked.is_file():
                # The marker is written when a checkpoint is whole.
                last = holder / f"global_step_{marked.read_text().strip()}"
            return [last / "actor", last]
    return [root / "actor", root]


def _step(path: Path) -> int | None:
    found = re.fullmatch(r"global_step_(\d+)", path.name)
    return int(found[1]) if found else None


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _shards(folder: Path) -> list[Path]:
    return list(folder.glob("model_world_size_*_rank_*.pt"))
