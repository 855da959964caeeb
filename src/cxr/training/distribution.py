"""Distributed training over several GPUs or hosts (`train.strategy`).

docs/scaling.md has the commands.
"""

import atexit
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras

from cxr.errors import CxrError

HEARTBEAT_TIMEOUT = 30  # seconds without a heartbeat after which a process counts as dead
JOIN_TIMEOUT = 300  # seconds within which all processes must have started

# JAX raises one exception type for everything and has the status only in its text. These statuses
# mean a lost peer; any other is an error of this process, such as RESOURCE_EXHAUSTED.
PEER_LOST = re.compile(
    r"(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED): "
    r"|[A-Z_]+: .*(Gloo|remote process exited)"  # on CPUs, on GPUs
)


def strategy_scope(mode: str) -> AbstractContextManager[Any]:
    """Context in which to build and train a model.

    Args:
        mode: `none`, `mirrored` (TensorFlow splits each batch over the GPUs of this machine), or
            `multihost` (JAX splits it over the processes, which the same command starts on each
            host).

    Raises:
        CxrError: Keras runs on the wrong backend, the other processes cannot be reached, or they
            have different numbers of devices; during training, another process was lost.
    """
    if mode == "none":
        return nullcontext()
    backend = {"mirrored": "tensorflow", "multihost": "jax"}[mode]
    if keras.backend.backend() != backend:
        raise CxrError(
            f"train.strategy: {mode} needs Keras on {backend}, not on "
            f"{keras.backend.backend()}: start the stage with KERAS_BACKEND={backend}"
        )
    return _mirrored() if mode == "mirrored" else _multihost()


def _mirrored() -> AbstractContextManager[Any]:
    import tensorflow as tf  # only with this backend

    gpus = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus]).scope()


def _multihost() -> AbstractContextManager[Any]:
    import jax  # an extra: multihost

    try:
        jax.distributed.initialize(
            os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES"),
            _integer("KERAS_DISTRIBUTION_NUM_PROCESSES"),
            _integer("KERAS_DISTRIBUTION_PROCESS_ID"),
            initialization_timeout=JOIN_TIMEOUT,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise CxrError(
            f"the processes of train.strategy: multihost did not find each other ({error}); "
            "set KERAS_DISTRIBUTION_JOB_ADDRESSES (of the first host, with a port), "
            "KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID (from 0) on each "
            "host, or start them with srun (docs/scaling.md)"
        ) from error
    return _multihost_scope()


def _refuse_unequal(devices: Counter[int]) -> None:
    """Raise if hosts differ in devices: each process gets an equal part of a batch."""
    if len(set(devices.values())) > 1:
        raise CxrError(
            "train.strategy: multihost needs the same number of devices on each host; process "
            + ", process ".join(f"{number} has {count}" for number, count in devices.items())
            + " (CUDA_VISIBLE_DEVICES selects GPUs)"
        )


@contextmanager
def _multihost_scope() -> Iterator[None]:
    """Split batches over all devices of all hosts; if one process ends, all end."""
    import jax

    try:
        _refuse_unequal(Counter(device.process_index for device in jax.devices()))
        with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
            yield
    except BaseException as error:
        atexit.register(_leave)
        from_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
        if from_jax and PEER_LOST.match(str(error)):
            raise CxrError(
                "another process of this training ended or cannot be reached; read its "
                f"output, then start all processes again ({str(error).splitlines()[0]})"
            ) from error
        raise


def _leave() -> None:
    """Exit after the error message: JAX would wait for the other processes, then abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _integer(variable: str) -> int | None:
    """Value of an environment variable; None if it is not set: JAX then uses SLURM or MPI."""
    value = os.environ.get(variable)
    return None if value is None else int(value)


@dataclass(frozen=True)
class ProcessInfo:
    """Position of this process in a `multihost` training; in any other it is the only one.

    Attributes:
        index: from 0. Process 0 writes the results.
        count: number of processes.
        local_devices: number of devices of each process.
    """

    index: int = 0
    count: int = 1
    local_devices: int = 1


def process_info() -> ProcessInfo:
    """Describe this process by JAX, if training is distributed by it."""
    if keras.distribution.distribution() is None:
        return ProcessInfo()
    import jax  # installed: only JAX distributes this way

    return ProcessInfo(jax.process_index(), jax.process_count(), jax.local_device_count())


def devices() -> int:
    """Number of devices of all processes, over which each batch is split."""
    process = process_info()
    return process.count * process.local_devices * _replicas()


def _replicas() -> int:
    """Number of devices of this process with `mirrored`, otherwise 1."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf  # only with this backend

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def is_first() -> bool:
    """Whether this process writes the results."""
    return process_info().index == 0
