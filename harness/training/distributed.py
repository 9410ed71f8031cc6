"""Several processes of one machine that share a meta-training: one for each GPU, or each with its share of the cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pudnet_bench.errors import BenchError
from pudnet_bench.methods.base import ALONE, Ranks

LOOPBACK = "127.0.0.1"
PATIENCE = timedelta(minutes=30)  # of a rank that waits for another: the first step of a large network can be long
LAST_WORDS = 10.0  # seconds that a failed rank has to say why


class RankError(BenchError):
    """One of the processes that share a meta-training failed; says which and why."""


class _LostError(Exception):
    """A message between ranks did not get through."""


def rank_count(asked: int, groups_per_step: int, gpus: int) -> int:
    """How many processes share a meta-training: ``asked``, or for 0 one for each of ``gpus`` that a step has a group for.

    ``gpus`` is 0 on a CPU. Raises RankError where a step has fewer groups, or the machine fewer GPUs.
    """
    if asked == 0:
        return max(1, min(groups_per_step, gpus))
    if asked > groups_per_step:
        raise RankError(
            f"--training-processes {asked}: a step of meta-training has {groups_per_step} "
            f"group{'s' if groups_per_step > 1 else ''}, one process each at most; give --groups-per-step {asked} or more"
        )
    if 0 < gpus < asked:
        raise RankError(f"--training-processes {asked}: torch sees {gpus} GPUs here, one process each at most")
    return asked


def gpu_count(device: torch.device) -> int:
    """GPUs of this machine, 0 where ``device`` is its CPU."""
    return torch.cuda.device_count() if device.type == "cuda" else 0


@contextmanager
def together(count: int, device: torch.device, work: Callable[..., None], arguments: Sequence[Any]) -> Iterator[Ranks]:
    """This process as the first of ``count``; the others are started, and each calls ``work(*arguments, ranks)``.

    They end with the block, and with this process however it ends. ``work`` and ``arguments`` must be picklable. Raises
    RankError where one of them fails.
    """
    if count == 1:
        yield ALONE
        return
    store = dist.TCPStore(LOOPBACK, 0, count, is_master=True, wait_for_workers=False)
    threads = torch.get_num_threads()
    each = threads if device.type == "cuda" else max(1, threads // count)
    context = multiprocessing.get_context("spawn")
    processes, words = [], []
    for rank in range(1, count):
        here, there = context.Pipe(duplex=False)
        process = context.Process(
            target=_begin, args=(rank, count, store.port, device.type, each, there, work, arguments), daemon=True
        )
        process.start()
        there.close()
        processes.append(process)
        words.append(here)
    torch.set_num_threads(each)
    try:
        for place in range(count - 1):
            _hear(processes[place], words[place], f"process {place + 2} of {count}")  # that it is there
        with _joined(0, count, store) as ranks:
            yield ranks
    except _LostError:
        for place in range(count - 1):
            if words[place].poll(LAST_WORDS):
                _hear(processes[place], words[place], f"process {place + 2} of {count}")
        raise
    finally:
        for process in processes:
            process.kill()
            process.join()
        torch.set_num_threads(threads)


def _hear(process: SpawnProcess, words: Connection, name: str) -> None:
    """Wait for the process's next words: none in particular, or why it failed. Raises RankError in that case."""
    try:
        failure = words.recv()
    except EOFError:
        process.join(LAST_WORDS)
        raise RankError(f"{name} died (exit code {process.exitcode}), perhaps for want of memory") from None
    if failure:
        raise RankError(f"{name} failed: {failure}")


@contextmanager
def _joined(rank: int, count: int, store: dist.TCPStore) -> Iterator[Ranks]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name need not resolve
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    except RuntimeError as error:
        raise _LostError(str(error)) from error
    try:
        yield Ranks(rank, count, _add)
    finally:
        dist.destroy_process_group()


def _add(tensors: Sequence[Tensor]) -> None:
    """Sums over all ranks, in place: one message for all tensors of a kind, so that latency is paid once."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for alike in kinds.values():
        message = torch.cat([tensor.reshape(-1) for tensor in alike])
        try:
            dist.all_reduce(message)
        except RuntimeError as error:
            raise _LostError(str(error)) from error
        for tensor, part in zip(alike, message.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def _begin(
    rank: int,
    count: int,
    port: int,
    kind: str,
    threads: int,
    last_words: Connection,
    work: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    # Ctrl-C and Slurm's warnings go to all processes, and the first rank decides what becomes of them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.join,), daemon=True).start()
    torch.set_num_threads(threads)
    if kind == "cuda":
        torch.cuda.set_device(rank)
    try:
        store = dist.TCPStore(LOOPBACK, port, count, is_master=False)
        last_words.send("")
        with _joined(rank, count, store) as ranks:
            work(*arguments, ranks)
    except BaseException as error:
        last_words.send(f"{type(error).__name__}: {error}")
        sys.exit(1)


def _end_with(wait: Callable[[], Any]) -> None:
    wait()
    os._exit(1)
