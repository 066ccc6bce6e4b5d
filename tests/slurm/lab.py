"""A real SLURM on one machine: every node in namespaces of its own, with fake GPUs. Needs root.

``python lab.py FOLDER NODES SHARED…`` starts it, prints one line of JSON (process ids of the
controller's and the nodes' namespaces) and then obeys lines on standard input: ``kill NAME`` (a
power cut), ``start NAME``. It ends, and every process in it, when standard input closes: everything
runs below one process namespace. Nothing of it is visible in the machine's own network or mounts.
Of the machine's /tmp, nodes see the folders SHARED and FOLDER must be below one of them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

NETWORK = "10.77.0"
GPUS = 8
CPUS = 16
# The first process of a namespace stays and reaps; its name marks it in the process list.
INIT = "while :; do sleep 3600 & wait $!; done"
SPACES = ("--net", "--uts", "--ipc", "--pid", "--mount", "--mount-proc", "--fork")

# A /tmp of a node's own, as real nodes have; the folders given as arguments are the machine's.
PRIVATE_TMP = """
mkdir -p /run/machine-tmp
mount --rbind /tmp /run/machine-tmp
mount -t tmpfs -o size=2g,mode=1777 tmpfs /tmp
for folder; do
    mkdir -p "$folder"
    mount --rbind "/run/machine-tmp/${folder#/tmp/}" "$folder"
done
umount --lazy /run/machine-tmp
"""

SLURM_CONF = """
ClusterName=lab
SlurmctldHost=controller({network}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=6
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=20
KillWait=8
OverTimeLimit=0
GresTypes=gpu
{nodes}
PartitionName=lab Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def call(*command: str) -> None:
    """Run a command; its output is the fault where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")


class Lab:
    """Controller and nodes; `pids` maps each name to the first process of its namespaces."""

    def __init__(self, folder: Path, count: int, shared: list[Path]) -> None:
        self.folder = folder
        self.shared = shared
        self.names = [f"node{number}" for number in range(1, count + 1)]
        self.pids: dict[str, int] = {}
        self._write_configuration()
        self.pids["controller"] = self._namespaces("controller", [])
        self._enter("controller", "ip", "link", "set", "lo", "up")
        self._enter("controller", "ip", "link", "add", "br0", "type", "bridge")
        self._enter("controller", "ip", "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
        self._enter("controller", "ip", "link", "set", "br0", "up")
        self._start_munge()
        conf = str(folder / "slurm.conf")
        self._enter("controller", "slurmctld", "-f", conf)
        for name in self.names:
            self.start(name)

    def _write_configuration(self) -> None:
        for name in ("state", "gpus"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(GPUS):
            (self.folder / "gpus" / f"gpu{number}").symlink_to("/dev/null")
        nodes = "\n".join(
            f"NodeName={name} NodeAddr={self.address(name)} CPUs={CPUS} RealMemory=16000 "
            f"Gres=gpu:{GPUS}"
            for name in self.names
        )
        conf = SLURM_CONF.format(folder=self.folder, network=NETWORK, nodes=nodes)
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "cgroup.conf").write_text("")
        gpus = f"Name=gpu File={self.folder}/gpus/gpu[0-{GPUS - 1}]\n"
        (self.folder / "gres.conf").write_text(gpus)
        hosts = ["127.0.0.1 localhost", f"{NETWORK}.1 controller"]
        hosts += [f"{self.address(name)} {name}" for name in self.names]
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")

    def address(self, name: str) -> str:
        """The node's address in the laboratory's own network."""
        return f"{NETWORK}.{10 + int(re.sub(r'[^0-9]', '', name))}"

    def _namespaces(self, name: str, inside: list[str]) -> int:
        """Make namespaces (below `inside`, a command that enters others); their first process."""
        mark = f"{self.folder.name}-{name}"
        subprocess.Popen(
            [*inside, "unshare", "--kill-child=KILL", *SPACES, "bash", "-c", INIT, mark],
            stdin=subprocess.DEVNULL,
            stderr=(self.folder / f"unshare-{name}.log").open("w"),
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for process in psutil.Process().children(recursive=True):
                try:
                    arguments = process.cmdline()
                except psutil.Error:
                    continue
                if arguments[:1] == ["bash"] and arguments[-1:] == [mark]:
                    self.pids[name] = process.pid
                    self._enter(name, "hostname", name)
                    self._enter(name, "mount", "--bind", f"{self.folder}/hosts", "/etc/hosts")
                    return process.pid
            time.sleep(0.02)
        raise SystemExit(f"no namespace for {name}")

    def entering(self, name: str) -> list[str]:
        """The command prefix that runs a command on a node."""
        return ["nsenter", "--all", f"--target={self.pids[name]}", "--"]

    def _enter(self, name: str, *command: str) -> None:
        call(*self.entering(name), *command)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [
            f"--{option}={self.folder}/munge.{ending}"
            for option, ending in (
                ("socket", "socket"),
                ("key-file", "key"),
                ("pid-file", "pid"),
                ("log-file", "log"),
                ("seed-file", "seed"),
            )
        ]
        self._enter("controller", "munged", "--force", *files)

    def start(self, name: str) -> None:
        """Switch a node on: namespaces, network, own /run, /tmp and /dev/shm, slurmd."""
        pid = self._namespaces(name, self.entering("controller"))
        outside = ["nsenter", "--net", f"--target={self.pids['controller']}", "ip", "link"]
        port = f"to-{name}"
        call(*outside, "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        call(*outside, "set", port, "master", "br0", "up")
        self._enter(name, "ip", "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        self._enter(name, "ip", "link", "set", "eth0", "up")
        self._enter(name, "ip", "link", "set", "lo", "up")
        for path in ("/run", "/dev/shm"):
            self._enter(name, "mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", path)
        below = [str(path) for path in self.shared if path.is_relative_to("/tmp")]
        self._enter(name, "bash", "-euc", PRIVATE_TMP, "tmp", *below)
        shutil.rmtree(self.folder / f"spool-{name}", ignore_errors=True)
        self._enter(name, "slurmd", "-f", str(self.folder / "slurm.conf"))

    def kill(self, name: str) -> None:
        """Cut a node's power: every process of it dies at once, and its network with it."""
        psutil.Process(self.pids.pop(name)).kill()


def main() -> None:
    """Start, tell, obey."""
    shared = [Path(argument).resolve() for argument in sys.argv[3:]]
    lab = Lab(Path(sys.argv[1]).resolve(), int(sys.argv[2]), shared)
    print(json.dumps(lab.pids), flush=True)
    for line in sys.stdin:
        order, name = line.split()
        {"kill": lab.kill, "start": lab.start}[order](name)
        print(json.dumps(lab.pids), flush=True)
    psutil.Process(lab.pids["controller"]).kill()


if __name__ == "__main__":
    main()
