"""Keep what a method changes in its process from every other method: settings, hooks, streams and child processes.

`SETTINGS` is the list of what is put back. What a method's file changes when it is imported holds for its own cells alone.
Not put back: threads, which cannot be ended, and functions of other modules that a method replaces.
"""

from __future__ import annotations

import gc
import io
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.nn.modules import module as torch_modules
from torch.optim import optimizer as torch_optimizers

from pudnet_bench.methods import own_code
from pudnet_bench.methods.base import Method

CHILD_SECONDS = 5.0  # that a child process has to end
MIXED = "mixed"  # of a setting of several backends, which need not agree


@dataclass(frozen=True)
class Setting:
    """Something global to the process: its name, how to read it and how to put it back.

    Attributes:
        of_fit: Whether a `fit` that changes it breaks the contract.
        imports: Whether a method's file may set it for its own cells by being imported.
    """

    name: str
    get: Callable[[], Any]
    put_back: Callable[[Any], object]
    of_fit: bool = False
    imports: bool = True


def _attribute(owner: Any, name: str, path: str) -> list[Setting]:
    """The setting that is an attribute; none in a release of torch without it."""
    try:
        attrgetter(name)(owner)
    except (AttributeError, RuntimeError):
        return []
    holder, _, last = name.rpartition(".")
    held = attrgetter(holder)(owner) if holder else owner
    return [Setting(f"{path}.{name}", partial(getattr, held, last), partial(setattr, held, last))]


def _mapping(name: str, held: MutableMapping[Any, Any]) -> Setting:
    def put_back(before: dict[Any, Any]) -> None:
        for key in held.keys() - before.keys():
            del held[key]
        for key, value in before.items():
            if key not in held or held[key] is not value:
                held[key] = value

    return Setting(name, lambda: dict(held), put_back)


def _sequence(name: str, owner: Any, attribute: str) -> Setting:
    def put_back(before: list[Any]) -> None:
        getattr(owner, attribute)[:] = before

    return Setting(name, lambda: list(getattr(owner, attribute)), put_back)


def _default_device() -> torch.device | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def _modes() -> tuple[int, int]:
    """Numbers of the modes that are entered, but for that of the default device, which is always the outermost."""
    functions = torch._C._len_torch_function_stack() - (_default_device() is not None)
    return functions, torch._C._len_torch_dispatch_stack()


def _leave_modes(before: tuple[int, int]) -> None:
    while _modes()[0] > before[0]:
        torch._C._pop_torch_function_stack()
    while _modes()[1] > before[1]:
        torch._C._pop_torch_dispatch_stack(None)


def _set_deterministic(before: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _flushes_denormals() -> bool:
    return float(torch.full((), 1e-40, dtype=torch.float32, device="cpu") * 1) == 0


def _cuda_device() -> int | None:
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None


def _set_cuda_device(before: int | None) -> None:
    if before is not None:
        torch.cuda.set_device(before)


def _torch_random_state() -> bytes:
    return bytes(torch.get_rng_state().numpy().tobytes())


def _set_torch_random_state(state: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _numpy_random_state() -> tuple[Any, ...]:
    return tuple(part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state())


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _set_handlers(before: dict[int, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) != handler:
            with suppress(OSError, ValueError):
                signal.signal(number, handler)


def _alarm_is_set() -> bool:
    return hasattr(signal, "getitimer") and signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _stop_alarm(before: bool) -> None:
    if not before:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _set_filters(before: list[Any]) -> None:
    warnings.resetwarnings()  # forgets which warnings were shown
    warnings.filters[:] = before  # type: ignore[index]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted
        return ""


def _cores() -> set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _set_cores(before: set[int] | None) -> None:
    if before is not None:
        os.sched_setaffinity(0, before)


def _set_collector(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()


_BACKENDS = (
    "cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic", "cudnn.allow_tf32", "cuda.matmul.allow_tf32",
    "cuda.matmul.allow_fp16_reduced_precision_reduction", "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "mkldnn.enabled", "mkldnn.deterministic", "cuda.matmul.fp32_precision", "cudnn.fp32_precision",
    "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision", "mkldnn.fp32_precision", "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision",
)  # fmt: skip
_ATTENTION = ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")
_MODULE_HOOKS = {
    name: hooks for name, hooks in vars(torch_modules).items() if name.startswith("_global") and "hooks" in name
}
_OPTIMIZER_HOOKS = {name: hooks for name, hooks in vars(torch_optimizers).items() if name.startswith("_global")}

# In this order: modes hide the default device, and both change what the other calls do.
SETTINGS: tuple[Setting, ...] = (
    Setting("torch.cuda.current_device()", _cuda_device, _set_cuda_device),
    Setting("the number of modes of torch", _modes, _leave_modes, of_fit=True, imports=False),
    Setting("torch.get_default_device()", _default_device, torch.set_default_device, of_fit=True),
    Setting("torch.is_grad_enabled()", torch.is_grad_enabled, torch.set_grad_enabled, of_fit=True),
    Setting("torch.get_default_dtype()", torch.get_default_dtype, torch.set_default_dtype, of_fit=True),
    Setting("torch.get_num_threads()", torch.get_num_threads, torch.set_num_threads, of_fit=True),
    Setting(
        "torch.get_float32_matmul_precision()", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision,
        of_fit=True,
    ),
    Setting(
        "torch.are_deterministic_algorithms_enabled()", torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms, of_fit=True,
    ),
    Setting(
        "torch's deterministic algorithms", lambda: (
            torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        ), _set_deterministic,
    ),
    *_attribute(torch.utils.deterministic, "fill_uninitialized_memory", "torch.utils.deterministic"),
    *(setting for name in _BACKENDS for setting in _attribute(torch.backends, name, "torch.backends")),
    *(
        Setting(name, getattr(torch.backends.cuda, f"{name}_enabled"), getattr(torch.backends.cuda, f"enable_{name}"))
        for name in _ATTENTION if hasattr(torch.backends.cuda, f"{name}_enabled")
    ),
    *(
        Setting(f"autocast on {kind}", partial(torch.is_autocast_enabled, kind), partial(torch.set_autocast_enabled, kind))
        for kind in ("cpu", "cuda")
    ),
    *(
        Setting(f"type of autocast on {kind}", partial(torch.get_autocast_dtype, kind), partial(torch.set_autocast_dtype, kind))
        for kind in ("cpu", "cuda")
    ),
    Setting("autocast's cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    Setting("anomaly detection", torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    Setting("flushing of denormals", _flushes_denormals, torch.set_flush_denormal),
    *(_mapping(f"torch.nn's {name}", hooks) for name, hooks in _MODULE_HOOKS.items()),
    *_attribute(torch_modules, "_global_is_full_backward_hook", "torch.nn.modules.module"),
    *(_mapping(f"torch.optim's {name}", hooks) for name, hooks in _OPTIMIZER_HOOKS.items()),
    Setting("torch's random numbers", _torch_random_state, _set_torch_random_state, imports=False),
    Setting("NumPy's random numbers", _numpy_random_state, np.random.set_state, imports=False),
    Setting("Python's random numbers", random.getstate, random.setstate, imports=False),
    Setting("NumPy's errors", np.geterr, lambda before: np.seterr(**before)),
    _mapping("os.environ", os.environ),
    Setting("the working folder", _working_folder, os.chdir),
    Setting("the umask", _umask, os.umask),
    Setting("the cores of this process", _cores, _set_cores),
    _sequence("sys.path", sys, "path"),
    *(Setting(f"sys.{name}", partial(getattr, sys, name), partial(setattr, sys, name), imports=False)
      for name in ("excepthook", "displayhook", "stdin")),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("the tracer", sys.gettrace, sys.settrace, imports=False),
    Setting("the profiler", sys.getprofile, sys.setprofile, imports=False),
    Setting("the garbage collector", gc.isenabled, _set_collector),
    Setting("the alarm", _alarm_is_set, _stop_alarm, imports=False),
    Setting("signal handlers", _handlers, _set_handlers, imports=False),
    Setting("warnings.filters", lambda: list(warnings.filters), _set_filters),
    *(Setting(f"warnings.{name}", partial(getattr, warnings, name), partial(setattr, warnings, name))
      for name in ("showwarning", "formatwarning")),
    Setting("the level of logging", lambda: logging.root.level, logging.root.setLevel),
    Setting("the threshold of logging", lambda: logging.root.manager.disable, logging.disable),
    _sequence("handlers of logging", logging.root, "handlers"),
    Setting(
        "how processes start", partial(multiprocessing.get_start_method, allow_none=True),
        partial(multiprocessing.set_start_method, force=True),
    ),
)  # fmt: skip

_at_import: WeakKeyDictionary[type[Method], list[tuple[Setting, Any]]] = WeakKeyDictionary()


def imported(find: Callable[[], type[Method]]) -> type[Method]:
    """Return the class that `find` imports, with all settings as before; what importing changed is set for its own cells."""
    with restored_settings() as changed:
        method = find()
        own_code.activate(None)  # which remembers the method's own `sys.path`
        settings = [(setting, now) for setting, _, now in changed() if setting.imports]
    _at_import.setdefault(method, settings)  # imported before, it changes nothing
    return method


@contextmanager
def isolated(method: type[Method]) -> Iterator[None]:
    """Let `method` find its own modules and settings in the block, and undo what it changes."""
    own_code.activate(own_code.code_of(method))
    with restored_settings():
        for setting, value in _at_import.get(method, ()):
            setting.put_back(value)
        yield


@contextmanager
def restored_settings() -> Iterator[Callable[[], list[tuple[Setting, Any, Any]]]]:
    """Restore `SETTINGS` and the standard streams after the block, and end child processes that it leaves.

    The block gets a function that returns what has changed so far, with the value before and now.
    """
    before, children = [_value(setting) for setting in SETTINGS], set(multiprocessing.active_children())

    def changed() -> list[tuple[Setting, Any, Any]]:
        now = [_value(setting) for setting in SETTINGS]
        return [found for found in zip(SETTINGS, before, now, strict=True) if found[1] != found[2]]

    with _restored_streams():
        try:
            yield changed
        finally:
            _put_back(before)
            _end(set(multiprocessing.active_children()) - children)


def described_changes(changed: list[tuple[Setting, Any, Any]]) -> str:
    """The changes that a `fit` must not leave, as "torch.get_num_threads() is 1, not 2"."""
    return ", ".join(f"{setting.name} is {now}, not {before}" for setting, before, now in changed if setting.of_fit)


def _value(setting: Setting) -> Any:
    try:
        return setting.get()
    except RuntimeError:
        return MIXED


def _put_back(before: list[Any]) -> None:
    for setting, value in zip(SETTINGS, before, strict=True):
        if value != MIXED and _value(setting) != value:
            with suppress(OSError):  # such as a working folder that was deleted
                setting.put_back(value)


def _end(children: set[Any]) -> None:
    if children:
        gc.collect()  # a loader of data that nobody uses any more ends its own workers
    for child in children:
        child.terminate()
    for child in children:
        child.join(CHILD_SECONDS)
        if child.is_alive():
            child.kill()
            child.join()


@contextmanager
def _restored_streams() -> Iterator[None]:
    """Restore `sys.stdout` and `sys.stderr`, and the files that they write to, where the block replaces or closes them."""
    names = ("stdout", "stderr")
    streams, copies = [getattr(sys, name) for name in names], [_copy(number) for number in (1, 2)]
    try:
        yield
    finally:
        for number, copy in zip((1, 2), copies, strict=True):
            if copy is not None:
                if not _same_file(copy, number):
                    os.dup2(copy, number)
                os.close(copy)
        for name, stream, number in zip(names, streams, (1, 2), strict=True):
            setattr(sys, name, _reopened(stream, number) if getattr(stream, "closed", False) else stream)


def _reopened(stream: Any, descriptor: int) -> io.TextIOWrapper:
    binary = os.fdopen(os.dup(descriptor), "wb")
    return io.TextIOWrapper(
        binary, getattr(stream, "encoding", None), getattr(stream, "errors", None), line_buffering=True
    )


def _copy(descriptor: int) -> int | None:
    try:
        return os.dup(descriptor)
    except OSError:
        return None


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False
