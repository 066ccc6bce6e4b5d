"""Multimodal inputs that the rollouts of a prompt share are stored once, by one of them.

verl 0.9.1 stores the patches of a picture with each rollout: 6 MB each for 504 x 504 pixels. Here
one rollout of a group stores them, and the others name it. Where verl reads a batch, the names are
replaced by what they stand for, fetched once for each group.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

FIELD = "multi_modal_inputs"
STORED_WITH = "stored_with"
"""Key of an entry that names the rollout with the group's multimodal inputs."""

Read = Callable[[Any], Awaitable[Any]]


def stored_with(rollout: str) -> dict[str, Any]:
    """Return the entry of a rollout whose multimodal inputs are stored with another."""
    return {STORED_WITH: rollout}


def is_stored_elsewhere(entry: dict[str, Any]) -> bool:
    """Return whether an entry only names the rollout with the multimodal inputs."""
    return STORED_WITH in entry


def read_whole(read: Read) -> Read:
    """Wrap verl's ``_async_meta_to_realdata`` so that every row has its multimodal inputs."""

    async def read_with_features(meta: Any) -> Any:
        data = await read(meta)
        if FIELD not in data.keys():  # noqa: SIM118 (a TensorDict iterates over its rows)
            return data
        entries = list(data[FIELD])
        holders = sorted({entry[STORED_WITH] for entry in entries if is_stored_elsewhere(entry)})
        if holders:
            stored = dict(zip(holders, await _features(holders, _partition(meta)), strict=True))
            whole = [stored.get(entry.get(STORED_WITH), entry) for entry in entries]
            data[FIELD] = _non_tensors(whole)
        return data

    return read_with_features


def _partition(meta: Any) -> str:
    """Return the partition of a batch, from either of verl's two forms."""
    return str(meta.partition_id if hasattr(meta, "partition_id") else meta.partition_ids[0])


async def _features(holders: Sequence[str], partition: str) -> list[Any]:
    import transfer_queue as tq

    data = await tq.async_kv_batch_get(list(holders), partition, select_fields=[FIELD])
    return list(data[FIELD])


def _non_tensors(entries: Sequence[dict[str, Any]]) -> Any:
    from tensordict.tensorclass import NonTensorData, NonTensorStack

    return NonTensorStack.from_list([NonTensorData(entry) for entry in entries])
