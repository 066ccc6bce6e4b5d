# What differs between sites. Copy it to launch/slurm/site.sh (git ignores that), change what is yours,
# and source it before submitting; the job sources it again on its first node:
#   source launch/slurm/site.sh
#   sbatch --nodes=2 launch/slurm/train.sbatch reward=paper data.dir=DATA model.path=outputs/sft
# All that is commented out has the default shown, or is not used.
# shellcheck shell=bash disable=SC2034

# The job finds this file by its path.
THINKVG_SITE=$(realpath "${BASH_SOURCE[0]}")
export THINKVG_SITE

# --- what sbatch asks for (its own variables; options on its command line win) ---------------------
export SBATCH_PARTITION=gpu
export SBATCH_ACCOUNT=my-project
# export SBATCH_QOS=normal
export SBATCH_GPUS_PER_NODE=8
# export SBATCH_TIMELIMIT=24:00:00
# The signal this long before the end (s): one training step, one checkpoint, and a minute to spare.
# export SBATCH_SIGNAL=B:USR1@600

# --- the software ------------------------------------------------------------------------------------
# The environment's Python, on a file system that all nodes share; in a container, the container's.
export THINKVG_PYTHON=$PWD/.venv-gpu/bin/python
# Runs in the job, on its first node, before anything is started; steps inherit its variables.
site_setup() {
    # torch brings its CUDA libraries; a toolkit is for building flash-attn (docs/install-gpu.md)
    # module load cuda/13
    :
}

# --- a container -------------------------------------------------------------------------------------
# pyxis (enroot below it): an image as srun takes it, REGISTRY#NAME:TAG or a .sqsh file.
# apptainer: a .sif file. The repository is mounted under its own path.
# export THINKVG_CONTAINER=none   # none, pyxis, apptainer
# export THINKVG_IMAGE=/shared/images/thinkvg.sqsh
# export THINKVG_MOUNTS=/shared/data:/shared/data,/shared/models:/shared/models

# --- nodes and network -------------------------------------------------------------------------------
# A folder on each node's own disk, for Ray and for caches of compiled code: short, since Ray's sockets
# live in it.
export THINKVG_SCRATCH=/tmp
# The address at which other nodes reach NODE. By default SLURM's own for it (NodeAddr).
# address_of() { getent ahostsv4 "$1-ib0" | awk 'NR == 1 { print $1 }'; }
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
# The first of 1000 free ports on every node. By default 12000 to 31000, by the job's number.
# export THINKVG_PORT=12000
# export THINKVG_NODE_TIMEOUT=600 # seconds that nodes have to join Ray

# --- fine points -------------------------------------------------------------------------------------
# export THINKVG_LOGS=$PWD/outputs/slurm
# export THINKVG_MARGIN=30          # seconds kept for the end itself, out of those before the limit
# export THINKVG_MAX_RESTARTS=50    # a job that was requeued this often fails instead
# export THINKVG_MAX_IDLE_RESTARTS=3 # as does one that was requeued this often without a new checkpoint
# export THINKVG_PREFLIGHT=on       # warn: show the problems that the checks find, and continue; off
# export WANDB_MODE=online          # send every step to W&B at once, after `wandb login`; else offline
# export THINKVG_PROBE_TIMEOUT=30   # seconds that nodes have to answer after the driver failed
# export THINKVG_RAY_CPUS=64        # CPUs that Ray may give out on each node; by default the job's
# site_srun=(--network=...)         # further options of every srun
# site_wrap=(numactl ...)           # a prefix of every command
# site_ray=(--object-store-memory=100000000000) # further options of every ray start
