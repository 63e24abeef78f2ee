"""Train on several devices: data parallelism of Keras, on all devices of one process or in several processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

import keras
from genrekeras.models import GenreClassifier

GRACE = 5.0  # in s. After another process has failed, the first one has this time to print the same error and to end.
_CRASHED = 70  # exit code of a process after an exception that no message explains
_PROCESS_ID = "KERAS_DISTRIBUTION_PROCESS_ID"  # read by `keras.distribution.initialize`


def check_backend() -> None:
    """Raise `ValueError` if the backend of Keras has no data parallelism."""
    if keras.backend.backend() != "jax":
        raise ValueError(
            "Training on several devices needs the backend JAX: Keras 3.15.1 supports distribution on JAX only, "
            "and Keras 3.16 adds PyTorch. Set the environment variable KERAS_BACKEND=jax. "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )


def use_all_devices(batch_size: int) -> None:
    """Train the models that are created from now on on all devices, until `use_one_device` is called.

    Raises:
        ValueError: the number of devices does not divide the batch size.
    """
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    if batch_size % distribution.num_model_replicas:
        raise ValueError(
            f"Batches of {batch_size} clips cannot be divided among {distribution.num_model_replicas} devices. Use "
            "another number of processes, or hide some devices, such as by the environment variable "
            "CUDA_VISIBLE_DEVICES."
        )
    keras.distribution.set_distribution(distribution)


def ignore_padding(model: GenreClassifier) -> None:
    """Make the loss and the metrics of a compiled model ignore the clips of weight 0 that complete a batch.

    In Keras, metrics do not use the weights by default, and the loss of an epoch is the mean over all rows.
    """
    config = model.get_compile_config()
    model.compile_from_config({**config, "metrics": None, "weighted_metrics": config["metrics"]})
    compute_metrics = model.compute_metrics

    def compute_metrics_of_clips(x, y, y_pred, sample_weight=None):
        is_clip = keras.ops.cast(sample_weight > 0, "float32")
        # Keras has counted the loss of the batch once for each row.
        padding = keras.ops.sum(is_clip) - is_clip.shape[0]
        [loss] = [metric for metric in model.metrics if metric.name == "loss"]
        loss.update_state(model.compute_loss(x, y, y_pred, sample_weight), sample_weight=padding)
        return compute_metrics(x, y, y_pred, is_clip)

    model.compute_metrics = compute_metrics_of_clips


def use_one_device() -> None:
    """End the training on all devices. The first process of several continues alone, and the others end here."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    if distribution.num_processes > 1:
        import jax

        jax.distributed.shutdown()  # waits for all processes
        if distribution.data_shard_id > 0:
            raise SystemExit(0)


def is_worker() -> bool:
    """Return whether this process is one of several processes that train together."""
    return _PROCESS_ID in os.environ


@contextlib.contextmanager
def worker() -> Iterator[None]:
    """Context manager for the program in a process of `launch`. The process ends with the context.

    After an error, JAX would wait for the other processes before the process ends.
    """
    threading.Thread(target=_exit_with_launcher, daemon=True).start()
    code: object = 0
    try:
        keras.distribution.initialize()
        yield
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
        code = _CRASHED
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _exit_with_launcher():
    """Wait until the process that started this one ends, and end this one."""
    sys.stdin.buffer.read()  # The other end of this pipe is never written to.
    os._exit(1)


def launch(processes: int, arguments: list[str], resume: str) -> NoReturn:
    """Run this program in several processes on this machine that train together, until all have ended.

    The first process prints and writes the results. SIGINT and SIGTERM are passed on to it. If a process fails or is
    killed, all processes are stopped.

    Args:
        processes: number of processes.
        arguments: arguments that are added to the command line of this program.
        resume: the command to resume the run, for the message about a process that failed.

    Raises:
        SystemExit: always, with the exit code of the first process, or with a message if a process failed.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"  # a free port
    environment = {
        **os.environ,
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(processes),
        "JAX_COORDINATOR_BIND_ADDRESS": address,  # by default, JAX accepts connections from other machines
        "JAX_ENABLE_PREEMPTION_SERVICE": "0",  # it would replace the handler of SIGTERM
    }
    with contextlib.ExitStack() as stack:
        logs = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes - 1))]
        workers = []
        for index, log in enumerate(logs):
            own = {_PROCESS_ID: str(index), **({"WANDB_MODE": "disabled"} if index else {})}
            process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:], *arguments],
                env=environment | own,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,  # The terminal sends Ctrl-C to this process only.
            )
            workers.append(process)
            stack.callback(process.wait)
            stack.callback(process.kill)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: workers[0].send_signal(number))
        failed = _wait(workers)
        code = workers[0].returncode
        if failed is None or (code and code > 0 and code != _CRASHED):
            raise SystemExit(code)  # The first process has printed why.
        if log := logs[failed]:
            log.seek(0)
            print(log.read().decode(errors="replace")[-3000:], file=sys.stderr)
        code = workers[failed].returncode
        reason = f"was ended by {signal.Signals(-code).name}" if code < 0 else "failed"
        raise SystemExit(
            f"\nStopped: process {failed + 1} of {processes} {reason}, so the others were stopped too. "
            f"To resume: {resume}"
        )


def _wait(workers):
    """Wait until all processes have ended or one has failed. Return the index of the one that failed, or `None`."""
    while not any(codes := [worker.poll() for worker in workers]):
        if None not in codes:
            return None
        time.sleep(0.1)
    # A process that was killed, if any, has made other processes fail.
    failed = min(filter(codes.__getitem__, range(len(codes))), key=codes.__getitem__)
    if codes[failed] > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            workers[0].wait(GRACE)
    return failed
