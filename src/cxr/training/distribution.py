"""One training over several graphics cards or hosts, as `train.strategy` says.

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

HEARTBEAT_TIMEOUT = 30  # seconds without a sign of life after which a process counts as dead
JOIN_TIMEOUT = 300  # seconds in which all processes must have been started

# JAX raises one type of error for everything and gives the status only in the text. These are the
# statuses of a lost peer; any other one is an error of this process, such as RESOURCE_EXHAUSTED.
PEER_LOST = re.compile(
    r"(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED): "
    r"|[A-Z_]+: .*(Gloo|remote process exited)"  # on processors, on graphics cards
)


def strategy_scope(mode: str) -> AbstractContextManager[Any]:
    """The context in which a model has to be built and trained.

    Args:
        mode: `none`, `mirrored` (each batch is split over the graphics cards of this machine, by
            TensorFlow), or `multihost` (over the processes that are started alike on each host, by
            JAX).

    Raises:
        CxrError: Keras runs on the wrong backend, the other processes cannot be reached, or they
            have other numbers of devices; while training, another process is lost.
    """
    if mode == "none":
        return nullcontext()
    backend = {"mirrored": "tensorflow", "multihost": "jax"}[mode]
    if keras.backend.backend() != backend:
        raise CxrError(
            f"train.strategy: {mode} needs Keras on {backend}, not on "
            f"{keras.backend.backend()}: start the stage with KERAS_BACKEND={backend}"
        )
    return _mirrored() if mode == "mirrored" else _joined()


def _mirrored() -> AbstractContextManager[Any]:
    import tensorflow as tf  # only with this backend

    cards = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([card.name for card in cards]).scope()


def _joined() -> AbstractContextManager[Any]:
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
    return _ending_together()


def _refuse_unequal(devices: Counter[int]) -> None:
    """Each process takes an equal part of a batch, so each needs equally many devices."""
    if len(set(devices.values())) > 1:
        raise CxrError(
            "train.strategy: multihost needs equally many devices on each host; process "
            + ", process ".join(f"{number} has {count}" for number, count in devices.items())
            + " (CUDA_VISIBLE_DEVICES chooses among graphics cards)"
        )


@contextmanager
def _ending_together() -> Iterator[None]:
    """Split batches over all devices of all hosts; where one process ends, all end."""
    import jax

    try:
        _refuse_unequal(Counter(device.process_index for device in jax.devices()))
        with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
            yield
    except BaseException as error:
        atexit.register(_leave)
        of_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
        if of_jax and PEER_LOST.match(str(error)):
            raise CxrError(
                "another process of this training ended or cannot be reached any more; read its "
                f"output, then start all processes again ({str(error).splitlines()[0]})"
            ) from error
        raise


def _leave() -> None:
    """Exit after the error was printed: JAX would wait for the other processes, then abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _integer(variable: str) -> int | None:
    """Value of an environment variable; None where it is not set: JAX asks SLURM or MPI then."""
    value = os.environ.get(variable)
    return None if value is None else int(value)


@dataclass(frozen=True)
class ProcessInfo:
    """This process among those of a training by `multihost`; the only one in any other training.

    Attributes:
        index: of this process, from 0. Process 0 writes the results.
        count: of the processes that train together.
        local_devices: of each process.
    """

    index: int = 0
    count: int = 1
    local_devices: int = 1


def process_info() -> ProcessInfo:
    """What JAX knows of this process."""
    if keras.distribution.distribution() is None:
        return ProcessInfo()
    import jax  # is installed: the distribution is JAX's

    return ProcessInfo(jax.process_index(), jax.process_count(), jax.local_device_count())


def devices() -> int:
    """Number of devices, of all processes together, over which each batch is split."""
    process = process_info()
    return process.count * process.local_devices * _replicas()


def _replicas() -> int:
    """Devices of this process by `mirrored`; 1 in any other training."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf  # only with this backend

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def is_first() -> bool:
    """Whether this process is the one that writes results."""
    return process_info().index == 0
