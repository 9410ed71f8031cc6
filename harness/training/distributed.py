"""Distributed meta-training on one machine: a process per GPU, or processes that divide the CPU cores between them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pudnet_bench.errors import BenchError
from pudnet_bench.methods.base import SINGLE_PROCESS, Ranks
from pudnet_bench.methods.own_code import place_of

LOOPBACK = "127.0.0.1"
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # the first step of a large network can be long
REPORT_SECONDS = 10.0  # that a failed rank has to report why


class RankError(BenchError):
    """A process of a distributed meta-training failed or cannot be started."""


class _CommunicationError(Exception):
    """A collective call failed."""


def rank_count(requested: int, groups_per_step: int, gpus: int) -> int:
    """Return how many processes share a meta-training on so many GPUs (0 for the CPU).

    `requested` = 0 asks for one per GPU, as far as an optimiser step has a group for each. Raises RankError if a step has
    fewer groups, or the machine fewer GPUs, than requested.
    """
    if requested == 0:
        return max(1, min(groups_per_step, gpus))
    if requested > groups_per_step:
        raise RankError(
            f"--training-processes {requested}: a step of meta-training has {groups_per_step} "
            f"group{'s' if groups_per_step > 1 else ''}, one process each at most; give --groups-per-step {requested} or more"
        )
    if 0 < gpus < requested:
        raise RankError(f"--training-processes {requested}: torch sees {gpus} GPUs here, one process each at most")
    return requested


def gpu_count(device: torch.device) -> int:
    """Return the number of GPUs of this machine, 0 if `device` is the CPU."""
    return torch.cuda.device_count() if device.type == "cuda" else 0


@contextmanager
def spawn_ranks(
    count: int, device: torch.device, work: Callable[..., None], arguments: Sequence[Any]
) -> Iterator[Ranks]:
    """Make this process rank 0 of `count` for the duration of the block; the others call `work(*arguments, ranks)`.

    The others end with the block, and with this process however it ends. `work` and `arguments` must be picklable.
    Raises RankError if one of the others fails.
    """
    if count == 1:
        yield SINGLE_PROCESS
        return
    store = dist.TCPStore(LOOPBACK, 0, count, is_master=True, wait_for_workers=False)
    threads = torch.get_num_threads()
    threads_each = threads if device.type == "cuda" else max(1, threads // count)
    context = multiprocessing.get_context("spawn")
    others: list[tuple[SpawnProcess, Connection, str]] = []
    for rank in range(1, count):
        receiver, sender = context.Pipe(duplex=False)
        inputs = (rank, count, store.port, device.type, threads_each, sender, partial(work, *arguments))
        process = context.Process(target=_main, args=inputs, daemon=True)
        process.start()
        sender.close()
        others.append((process, receiver, f"process {rank + 1} of {count}"))
    torch.set_num_threads(threads_each)
    try:
        for other in others:
            _receive_report(*other)  # that it has started
        with _process_group(0, count, store) as ranks:
            yield ranks
    except _CommunicationError:
        for other in others:
            if other[1].poll(REPORT_SECONDS):
                _receive_report(*other)
        raise
    finally:
        for process, _, _ in others:
            process.kill()
            process.join()
        torch.set_num_threads(threads)


def _receive_report(process: SpawnProcess, receiver: Connection, name: str) -> None:
    """Wait for the process's report: empty once it has started, or the reason for its failure, raised as RankError."""
    try:
        failure = receiver.recv()
    except EOFError:
        process.join(REPORT_SECONDS)
        raise RankError(f"{name} died (exit code {process.exitcode}), perhaps for want of memory") from None
    if failure:
        raise RankError(f"{name} failed: {failure}")


@contextmanager
def _process_group(rank: int, count: int, store: dist.TCPStore) -> Iterator[Ranks]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name need not resolve
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=COLLECTIVE_TIMEOUT)
    except RuntimeError as error:
        raise _CommunicationError(str(error)) from error
    try:
        yield Ranks(rank, count, _all_reduce)
    finally:
        dist.destroy_process_group()


def _all_reduce(tensors: Sequence[Tensor]) -> None:
    """Sum over all ranks, in place: one message per device and dtype, so that latency is paid once."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for alike in kinds.values():
        message = torch.cat([tensor.reshape(-1) for tensor in alike])
        try:
            dist.all_reduce(message)
        except RuntimeError as error:
            raise _CommunicationError(str(error)) from error
        for tensor, part in zip(alike, message.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def _main(
    rank: int, count: int, port: int, device: str, threads: int, sender: Connection, work: Callable[[Ranks], None]
) -> None:
    """Run `work` in a spawned process, reporting its start and its failure through `sender`."""
    # Ctrl-C and Slurm's warnings reach all processes; the first rank decides what to do about them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.join,), daemon=True).start()
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.cuda.set_device(rank)
    try:
        store = dist.TCPStore(LOOPBACK, port, count, is_master=False)
        sender.send("")
        with _process_group(rank, count, store) as ranks:
            work(ranks)
    except BaseException as error:
        sender.send(f"{type(error).__name__}: {error}{place_of(error)}")
        sys.exit(1)


def _exit_after(wait: Callable[[], Any]) -> None:
    wait()
    os._exit(1)
