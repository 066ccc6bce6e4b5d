"""The saved position of a data loader, for another number of worker processes.

torchdata's loader saves its position in one form without worker processes and in another one with
them, and refuses the other form, or another number, with an empty AssertionError. The position
itself (the order of the epoch's rows, and how many are read) does not depend on them: a dataset of
rows, unlike a stream, has no state in its workers.
"""

from typing import Any

MAIN_PROCESS = (
    "_sampler_iter_state",
    "_index_sampler_state",
    "_sampler_iter_yielded",
    "_IterableDataset_len_called",
    "_shared_seed",
)
"""Entries that both forms have."""


def for_workers(state: dict[str, Any], workers: int) -> dict[str, Any]:
    """Return a loader's saved state in the form for this number of worker processes."""
    snapshot = state.get("_snapshot")
    saved_by = snapshot["_main_snapshot"]["_num_workers"] if snapshot else 0
    if saved_by == workers:
        return state
    main = snapshot["_main_snapshot"] if snapshot else state
    batches = snapshot["_snapshot_step"] if snapshot else state["_num_yielded"]
    position = {name: main[name] for name in MAIN_PROCESS}
    finished = {"_iterator_finished": state["_iterator_finished"]}
    if not workers:
        of_dataset = {"dataset_state": None, "fetcher_state": None}
        return {**position, **finished, **of_dataset, "_num_yielded": batches}
    return {
        **finished,
        # verl's loader saves after each batch, so that no batch is read again
        "_steps_since_snapshot": 0,
        "_snapshot": {
            "_snapshot_step": batches,
            # the next batch is the first worker's
            "_last_yielded_worker_id": workers - 1,
            # the seed is of random numbers in workers, of which these datasets draw none
            "_main_snapshot": {**position, "_num_workers": workers, "_base_seed": 0},
            "_worker_snapshots": {},
        },
    }
