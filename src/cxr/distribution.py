"""One training over several graphics cards or hosts, as `train.distribution` says.

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

LOST_AFTER = 30  # seconds without a sign of life after which a process counts as dead
JOIN_WITHIN = 300  # seconds in which all processes must have been started

# What JAX says where another process is lost. Any other status is of this process's own work, as
# RESOURCE_EXHAUSTED where its memory is.
LOST = re.compile(
    r"(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED): "
    r"|[A-Z_]+: .*(Gloo|remote process exited)"  # of processors, of graphics cards
)


def spread(mode: str) -> AbstractContextManager[Any]:
    """What a model must be made and trained within.

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
            f"train.distribution: {mode} needs Keras on {backend}, not on "
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
            _number("KERAS_DISTRIBUTION_NUM_PROCESSES"),
            _number("KERAS_DISTRIBUTION_PROCESS_ID"),
            initialization_timeout=JOIN_WITHIN,
            heartbeat_timeout_seconds=LOST_AFTER,
        )
    except (RuntimeError, ValueError) as error:
        raise CxrError(
            f"the processes of train.distribution: multihost did not find each other ({error}); "
            "set KERAS_DISTRIBUTION_JOB_ADDRESSES (of the first host, with a port), "
            "KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID (from 0) on each "
            "host, or start them with srun (docs/scaling.md)"
        ) from error
    return _ending_together()


def _refuse_unequal(devices: Counter[int]) -> None:
    """Each process takes an equal part of a batch, so each needs equally many devices."""
    if len(set(devices.values())) > 1:
        raise CxrError(
            "train.distribution: multihost needs equally many devices on each host; process "
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
        status = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
        if status and LOST.match(str(error)):
            raise CxrError(
                "another process of this training ended, or cannot be reached any more; see what "
                f"it said, then start all of them again ({str(error).splitlines()[0]})"
            ) from error
        raise


def _leave() -> None:
    """End after the error was told, before JAX waits for the others and aborts."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _number(variable: str) -> int | None:
    """Of the environment; None where it is not set, as JAX asks SLURM or MPI then."""
    value = os.environ.get(variable)
    return None if value is None else int(value)


@dataclass(frozen=True)
class Place:
    """Where this process stands in a training by `multihost`; alone in any other.

    Attributes:
        number: of this process, from 0.
        processes: that train together.
        devices: of each process.
    """

    number: int = 0
    processes: int = 1
    devices: int = 1


def place() -> Place:
    """The place of this process."""
    if keras.distribution.distribution() is None:
        return Place()
    import jax  # is there, as the distribution is its

    return Place(jax.process_index(), jax.process_count(), jax.local_device_count())


def devices() -> int:
    """Over how many devices, of all processes together, each batch is split."""
    here = place()
    return here.processes * here.devices * _replicas()


def _replicas() -> int:
    """Devices of this process by `mirrored`; 1 in any other training."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf  # only with this backend

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def is_first() -> bool:
    """Whether this process is the one that writes results."""
    return place().number == 0
