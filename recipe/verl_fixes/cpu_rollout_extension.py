"""verl's vLLM worker extension for the CPU; ``engine_kwargs.vllm.worker_extension_cls`` names it.

After loading, vLLM 0.28's CPU linear layers repack their weights and drop the originals, so that
the next weight sync finds no parameter to write to. The extension keeps the plain linear layers:
it is imported in the worker process before the model is built.
"""

import torch
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from vllm.model_executor.layers import utils


def _keep_plain_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
    layer.cpu_linear = torch.nn.functional.linear


utils.dispatch_cpu_unquantized_gemm = _keep_plain_linear


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """verl's extension with linear layers whose weights can be written again."""
