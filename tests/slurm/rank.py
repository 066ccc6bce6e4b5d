"""A process under torchrun without a model: it meets the others, and the last one fails."""

import sys

import torch
from torch import distributed

distributed.init_process_group("gloo")
total = torch.tensor([1])
distributed.all_reduce(total)
print(f"rank {distributed.get_rank()}: {int(total)} processes, {sys.argv[1]}", flush=True)
distributed.barrier()
if distributed.get_rank() == distributed.get_world_size() - 1:
    raise RuntimeError("the last rank fails as it was told to")
distributed.barrier()
