"""Checks of the machine: GPUs, packages, disk, open files, processes, memory, folders."""

import importlib
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from omegaconf import DictConfig

from data_prep.program import InputError
from recipe import cluster
from recipe.preflight.choices import loggers
from recipe.preflight.memory import optimizer_bytes
from recipe.preflight.model import ModelShape
from recipe.preflight.values import AFTER_EACH_EPOCH, GIB, Workload, processes_of, saves
from recipe.run.checkpoints import MOST_KEPT
from recipe.run.host import unwritable

FLASH = ("flash_attention_2", "flash_attention_3")
UNLIMITED = 10
"""Assumed number of checkpoints if all are kept and the number of steps is not set."""

SPARE = 1.05
"""Factor for a checkpoint's other files: tokenizer, names of the optimizer, data loader."""

SHARED = (
    *("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs"),
    *("panfs", "wekafs", "9p", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse"),
)
"""Types of file systems that several nodes see."""

SHARED_MEMORY = Path("/dev/shm")
DOCKERS_DEFAULT = 64 << 20
CONTROL_GROUP = Path("/sys/fs/cgroup")

# Measured on two cores (Ray 2.60, verl 0.9.1): the smallest run, with 18 estimated processes, has
# up to 611 threads, and up to 114 open files in a process.
THREADS = 34
RAY_PROCESSES = 8
"""Processes of Ray itself on the head, with the program that starts the run."""

FILES, FILES_A_PROCESS = 64, 5
CERTAINLY = 0.75
"""Share of the estimate below which a run is refused; below the full estimate it gets a warning."""

RAYS_ADVICE = 8192
"""Open files of a node with GPUs, below which Ray warns."""

ROOM = GIB
"""Free space of the temporary folder for logs, unpacked files and objects that Ray moves there."""


def check_accelerator(config: DictConfig, program: str) -> None:
    """Refuse a cluster with GPUs on a machine without, and the other way round."""
    if program == "train" and cluster.gpus_are_elsewhere():
        return
    import torch

    has_gpu = torch.cuda.is_available()
    if config.cluster.platform == "cpu" and has_gpu:
        raise InputError("cluster=cpu is for machines without a GPU: choose another cluster")
    if config.cluster.platform == "cuda" and not has_gpu:
        raise InputError(
            "cluster: this configuration needs GPUs and torch sees none here; cluster=cpu runs "
            "without"
        )


def gpu_faults(work: Workload) -> Iterator[str]:
    """Yield a fault if this node has too few GPUs; on a running cluster Ray counts them."""
    if work.on_cpu or cluster.joins_a_cluster():
        return
    import torch

    count = torch.cuda.device_count()
    if 0 < count < work.gpus_per_node:
        yield (
            f"cluster.gpus_per_node={work.gpus_per_node}: this machine has {count}: set "
            f"cluster.gpus_per_node={count}"
        )


def gpu_memory() -> float | None:
    """Return the memory of this machine's smallest NVIDIA GPU in GiB; None without one.

    torch is not asked, since it would take memory of the GPU as long as this program runs.
    """
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return min(float(line) for line in printed.stdout.split()) / 1024
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def gpu_warnings(config: DictConfig, work: Workload) -> Iterator[str]:
    """Yield a warning if this node's GPUs have less memory than the configuration counts with."""
    if work.on_cpu or cluster.joins_a_cluster():
        return
    has = gpu_memory()
    # A driver keeps some of it.
    if has is not None and has < 0.95 * config.cluster.gpu_memory_gib:
        yield (
            f"cluster.gpu_memory_gib={config.cluster.gpu_memory_gib:g}: a GPU of this machine has "
            f"{has:.1f} GiB: choose another cluster=, or set cluster.gpu_memory_gib={has:.1f}"
        )


def package_faults(config: DictConfig, program: str) -> Iterator[str]:
    """Yield the optional packages that the configuration needs and that do not import here."""
    remedies = {}
    if config.cluster.attention in FLASH:
        remedies["flash_attn"] = (
            "build it against the installed torch (docs/install-gpu.md), or set "
            "cluster.attention=sdpa cluster.remove_padding=false"
        )
    model = config.actor_rollout_ref.model if program == "train" else config.model
    if model.get("use_liger", False):
        remedies["liger_kernel"] = "install liger-kernel, or set use_liger=false on the model"
    if {"wandb", "tracking"} & set(loggers(config)):
        remedies["wandb"] = "install wandb, or leave it out of trainer.logger"
    if "tensorboard" in loggers(config):
        remedies["tensorboard"] = "install tensorboard, or leave it out of trainer.logger"
    for name, remedy in remedies.items():
        yield from _import_faults(name, remedy)


def engine_faults(program: str) -> Iterator[str]:
    """Yield the engine's packages that do not import here; a run imports them when it starts."""
    for name in ("ray", "vllm") if program == "train" else ("ray",):
        yield from _import_faults(name, "install the training stack (make setup, or the extra gpu)")


def _import_faults(name: str, remedy: str) -> Iterator[str]:
    try:
        importlib.import_module(name)
    except Exception as error:  # a build for another torch may raise anything
        reason = " ".join(str(error).split())[:200]
        yield f"the package {name} does not import here ({reason}): {remedy}"


def checkpoint_bytes(shape: ModelShape, work: Workload) -> float:
    """Return a checkpoint's bytes: shards, AdamW's moments, and without LoRA a Hugging Face folder.

    The folder has the type of the shards.
    """
    state = optimizer_bytes(shape, work)
    copies = 1 if work.lora_rank else 2
    return SPARE * (copies * shape.parameters * work.stored_bytes + state)


def disk_warnings(config: DictConfig, shape: ModelShape, work: Workload) -> Iterator[str]:
    """Yield a warning without room for the checkpoints to keep and one more being written."""
    key = MOST_KEPT[work.program]
    if config.trainer.save_freq == 0:
        return
    count = 1 + (_checkpoints(config, key) if saves(config) else 0)
    needed = count * checkpoint_bytes(shape, work)
    folder = Path(config.trainer.default_local_dir).absolute()
    # New checkpoints will replace this run's existing ones.
    existing = folder.glob("global_step_*/**/*")
    replaced = sum(file.stat().st_size for file in existing if file.is_file())
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free + replaced < needed:
        yield (
            f"trainer.default_local_dir={config.trainer.default_local_dir}: {count} checkpoints "
            f"take {needed / GIB:.0f} GiB and {(free + replaced) / GIB:.0f} are free on {folder}: "
            f"lower trainer.{key}, or set run_dir to a larger disk"
        )


def _checkpoints(config: DictConfig, key: str) -> int:
    """Return how many checkpoints are kept; without a limit (null), how many the run saves."""
    if config.trainer[key]:
        return int(config.trainer[key])
    steps = config.trainer.get("total_training_steps")
    if not steps or config.trainer.save_freq == AFTER_EACH_EPOCH:
        return UNLIMITED
    return max(1, int(steps) // int(config.trainer.save_freq))


def limit_faults(config: DictConfig, program: str) -> Iterator[str]:
    """Yield limits at which a run of `program` (``train``, ``sft``, ``evaluate``) would fail."""
    if cluster.gpus_are_elsewhere():
        return
    yield from _temporary_faults()
    yield from _home_faults(program)
    yield from _count_faults(config, program, CERTAINLY)
    yield from _shared_memory_faults(config, program)


def limit_warnings(config: DictConfig, program: str) -> Iterator[str]:
    """Yield limits that will probably disturb a run of `program`."""
    yield from cache_warnings(config)
    if cluster.gpus_are_elsewhere():
        return
    if not any(_count_faults(config, program, CERTAINLY)):
        yield from _count_faults(config, program, 1.0)
    yield from _room_warnings(config)


def _processes(config: DictConfig, program: str) -> int:
    """Estimate the processes of a run on one node."""
    if program != "train":
        return processes_of(config, program)
    cores = os.cpu_count() or 1
    started_ahead = min(config.ray_kwargs.ray_init.num_cpus or cores, cores)
    return int(started_ahead) + RAY_PROCESSES + processes_of(config, program)


def _count_faults(config: DictConfig, program: str, share: float) -> Iterator[str]:
    """Yield limits on files and threads that are below `share` of the run's estimated need."""
    processes = _processes(config, program)
    files = FILES + FILES_A_PROCESS * processes
    if share == 1.0 and config.cluster.platform != "cpu" and program == "train":
        files = max(files, RAYS_ADVICE)
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= allowed < files * share:
        yield (
            f"ulimit -n: {allowed} open files are allowed and this run takes about {files}: raise "
            f"the hard limit (ulimit -Hn {max(files, RAYS_ADVICE)}, /etc/security/limits.conf, "
            "docker run --ulimit nofile=65536)"
        )
    threads = THREADS * processes
    for limit, free, remedy in _free_threads():
        if free < threads * share:
            yield (
                f"{limit}: {max(free, 0)} more threads are allowed and this run starts about "
                f"{threads}: {remedy}"
            )


def _free_threads() -> Iterator[tuple[str, int, str]]:
    """Yield limits on threads: name, number of further threads, and how to raise the limit."""
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if allowed != resource.RLIM_INFINITY and os.getuid() != 0:  # it does not apply to root
        free = allowed - _threads_of(os.getuid())
        yield "ulimit -u", free, "raise the hard limit (ulimit -Hu, /etc/security/limits.conf)"
    try:
        limit = (CONTROL_GROUP / "pids.max").read_text().strip()
        used = int((CONTROL_GROUP / "pids.current").read_text())
    except (OSError, ValueError):
        return  # this process has no control group
    if limit != "max":
        yield "the container's pids.max", int(limit) - used, "raise it (docker run --pids-limit -1)"


def _threads_of(user: int) -> int:
    """Count the threads of a user's processes on this machine."""
    processes = [process.info for process in psutil.process_iter(["uids", "num_threads"])]
    mine = [info for info in processes if info["uids"] and info["uids"].real == user]
    return sum(info["num_threads"] or 0 for info in mine)


def _shared_memory_faults(config: DictConfig, program: str) -> Iterator[str]:
    """Yield a fault if shared memory is too small: processes then die by SIGBUS, silently."""
    cluster = config.cluster
    gpus = int(cluster.gpus_per_node)
    if cluster.platform != "cpu":
        needed, what = (DOCKERS_DEFAULT + 1 if gpus > 1 else 0), "NCCL and vLLM take more than"
    elif program == "train":
        # verl copies weights through a bucket of each worker, which a small model does not fill
        bucket = int(cluster.weight_bucket_megabytes) << 20
        files = Path(config.model.path).glob("*.safetensors")
        needed = gpus * min(bucket, sum(file.stat().st_size for file in files) or bucket)
        what = "the weights on their way to vLLM take"
    else:
        return
    free = _free(SHARED_MEMORY)
    if free < needed:
        yield (
            f"{SHARED_MEMORY}: {free >> 20} MiB are free, {what} {needed / (1 << 20):.0f}: start "
            "the container with --shm-size=16g (docker's default is 64 MiB), or remount it larger"
        )


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _room_warnings(config: DictConfig) -> Iterator[str]:
    """Yield a warning if there is little shared memory or temporary space."""
    enough = GIB if config.cluster.platform == "cpu" else 16 * GIB
    free = _free(SHARED_MEMORY)
    if free < enough:
        yield (
            f"{SHARED_MEMORY}: {free >> 20} MiB are free, and {enough >> 20} are better: Ray keeps "
            "its objects on the disk instead, and data loaders, NCCL or vLLM may end by SIGBUS: "
            "start the container with --shm-size=16g, or remount it larger"
        )
    folder = Path(tempfile.gettempdir())
    if _free(folder) < ROOM:
        yield (
            f"TMPDIR={folder}: {_free(folder) >> 20} MiB are free, and logs and Ray's objects go "
            "there: free some, or set TMPDIR to another folder"
        )


def _temporary_faults() -> Iterator[str]:
    """Yield temporary folders that cannot be written to: Python would silently use another."""
    for name in ("TMPDIR", "RAY_TMPDIR"):
        folder = Path(os.environ.get(name) or "/tmp")
        reason = unwritable(folder)
        if reason:
            yield (
                f"{name}={folder}: nothing can be written there ({reason}), where sockets and logs "
                f"go: free space, or set {name} to another folder"
            )


def _home_faults(program: str) -> Iterator[str]:
    """Yield a fault if Ray cannot store the token of a private cluster in the home folder."""
    token = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if program != "train" or cluster.joins_a_cluster() or any(map(os.environ.get, token)):
        return
    home = Path.home()
    if os.environ.get("RAY_AUTH_MODE") == "disabled" or (home / ".ray" / "auth_token").is_file():
        return
    reason = unwritable(home / ".ray")
    if reason:
        yield (
            f"HOME={home}: nothing can be written there ({reason}), and Ray keeps the token of its "
            "cluster in it: set HOME to another folder, or RAY_AUTH_TOKEN to 64 random hex digits"
        )


def cache_folders() -> dict[str, Path]:
    """Return the folders of compiled code, by the variable that sets each of them."""
    home, cache = Path.home(), Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    default = {
        "TRITON_CACHE_DIR": home / ".triton" / "cache",
        "VLLM_CACHE_ROOT": cache / "vllm",
        "FLASHINFER_WORKSPACE_BASE": home,
        "CUDA_CACHE_PATH": home / ".nv" / "ComputeCache",
    }
    return {name: Path(os.environ.get(name) or folder) for name, folder in default.items()}


def file_system(folder: Path) -> str:
    """Return the type of the file system of a folder, which need not exist."""
    path = folder.expanduser().resolve()
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[point] for point in (path, *path.parents) if point in mounts), "")


def cache_warnings(config: DictConfig) -> Iterator[str]:
    """Yield a warning if several nodes compile into one folder, and so read unfinished files."""
    if int(config.cluster.nodes) < 2 or config.cluster.platform == "cpu":
        return
    types = {name: file_system(folder) for name, folder in cache_folders().items()}
    shared = [name for name, kind in types.items() if kind in SHARED]
    if shared:
        kinds = ", ".join(sorted({types[name] for name in shared}))
        yield (
            f"{', '.join(shared)}: compiled code of all {config.cluster.nodes} nodes goes to one "
            f"network disk ({kinds}), where they overwrite each other's: set each to a folder on "
            "the nodes' own disks"
        )
