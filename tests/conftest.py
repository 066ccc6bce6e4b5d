"""Settings of every test process."""

import os

# Before verl is imported anywhere: these machines have no accelerator.
os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
