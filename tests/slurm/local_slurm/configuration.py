"""The slurm.conf of a Slurm that lives in one folder and listens on loopback only."""

from __future__ import annotations

import random
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

# Outside Linux's range for outgoing connections, which could take a port before its daemon does.
PORTS = range(20000, 32000)
# Seconds that a requeued job waits (reason BeginTime) before it may start again: Slurm's own default is 120.
REQUEUE_SECONDS = 5
# Seconds between SIGTERM and SIGKILL. submitit ignores SIGTERM, so every cancelled job takes this long to end.
KILL_SECONDS = 2
NONE: Mapping[str, str] = {}


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports on which nothing listens now; another process may still take them first."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")


def memory_mb() -> int:
    """Nine tenths of the machine's memory."""
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    return int(int(total.split()[1]) / 1024 * 0.9)


def slurm_conf(
    folder: Path, user: str, ports: Sequence[int], cpus: int, memory: int, settings: Mapping[str, str] = NONE
) -> str:
    """The text of slurm.conf: `ports` of the controller and of each node, `cpus` and `memory` (MB) of every node.

    Partition `main` is the default; `urgent`, on the same nodes, preempts its jobs, which are then requeued. `settings`
    replace those of the same name.
    """
    controller, *nodes = ports
    names = f"n[1-{len(nodes)}]" if len(nodes) > 1 else "n1"
    lines = f"""
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={REQUEUE_SECONDS}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
MailProg={shutil.which("true") or "/bin/true"}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
InactiveLimit=0
KillWait={KILL_SECONDS}
MinJobAge=3600
MaxArraySize=10001
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=64
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
""".strip().splitlines()
    lines = [line for line in lines if line.partition("=")[0] not in settings]
    lines += [f"{name}={value}" for name, value in settings.items()]
    for number, port in enumerate(nodes, 1):
        lines.append(
            f"NodeName=n{number} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={cpus} RealMemory={memory} State=UNKNOWN"
        )
    lines.append(f"PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1")
    lines.append(f"PartitionName=urgent Nodes={names} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF")
    return "\n".join(lines) + "\n"
