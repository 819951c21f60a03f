"""Heavy work in a process of its own.

Training, molecular dynamics and labelling run in a child process: torch's global dtype and seeds stay apart
from everybody else's, memory is given back, and a cancelled campaign stops computing at once. Children are
forked from a server process that has imported the heavy modules once, so that starting one costs
milliseconds instead of seconds.

Each child leads a process group of its own. What it started, as a program that computes a label, is in there
with it and ends with it.
"""

import contextlib
import faulthandler
import gc
import inspect
import logging
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from logging.handlers import QueueHandler
from multiprocessing import active_children, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Literal, NoReturn, TypeVar
from weakref import WeakSet

from db.settings import settings
from tasks.confidential import forget_secrets
from tasks.forks import context
from tasks.limits import LOOK_SECONDS, Limits, Watch, cap_memory, kill_group
from tasks.wanted import wanted

S = TypeVar("S")
T = TypeVar("T")
Message = tuple[Literal["report", "log", "result", "error"], Any]

GRACE_SECONDS = 20.0  # between SIGTERM and SIGKILL

# multiprocessing polls every child whenever one starts, and an exit status can be read only once: without
# this lock a thread that starts a child can take the status that another thread is waiting for.
_status_lock = threading.Lock()

_interrupted: WeakSet[ForkServerProcess] = WeakSet()
_interrupted_work: set[str] = set()


class ChildDied(RuntimeError):
    """A child process ended without a result: killed by a signal, or it left by itself."""


class Interrupted(ChildDied):
    """A child was ended because what it worked for was interrupted (see `interruptible`)."""


def in_child(
    function: Callable[..., T],
    /,
    *args: Any,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    limits: Limits | None = None,
    part_of: str | None = None,
    **kwargs: Any,
) -> T:
    """Call `function(*args, **kwargs)` in a fresh process and return its result.

    Function, arguments and result are pickled by value. If `function` has a parameter `report`, it receives
    a callable there, and each `report(dict)` arrives in the calling thread as `on_progress(dict)`. What the
    function logs at INFO or above is handled by the loggers of the same name here. The child computes on one
    thread, with its networks on the device of the settings, and it never outlives this process. May be called
    from several threads at once, and in a worker of Dask.

    SIGTERM raises SystemExit inside the function, so that its `finally` blocks run. Whatever interrupts the
    caller (KeyboardInterrupt, a cancelled flow run, an error in `on_progress`) ends the child with SIGTERM,
    and with SIGKILL if it is still there 20 s later. A child beyond its `limits` is killed at once; so is,
    when a child has ended, whatever it started and left behind.

    Raises:
        OutOfTime, OutOfMemory: it went beyond its limits (`tasks.limits`).
        Interrupted: it was ended by `interruptible`, or the work that it is `part_of` was, or nobody waits
            any more for the task of Dask that it is for.
        ChildDied: the process ended without a result; the message names the signal and its likely cause.
        Exception: what `function` raised, with the child's traceback as a note.
    """
    call = pickle.dumps((settings().device, settings().child_memory_gb, function, args, kwargs))
    receiver, sender = context().Pipe(duplex=False)
    process = context().Process(target=_run, args=(sender, call), name=function.__qualname__)
    with receiver:
        try:
            with sender, _status_lock:
                if part_of in _interrupted_work:
                    raise Interrupted(f"{process.name} was not started: what it is part of was interrupted")
                process.start()
            watch = None if limits is None else Watch(process, limits)
            result: T = _follow(process, receiver, on_progress, watch)
            return result
        finally:
            _stop(process)


def in_children(function: Callable[[S], T], things: Sequence[S], /, *, children: int = 2) -> Iterator[T]:
    """What a function returns for each thing; several children, side by side, have an equal share of them.

    They begin at once, and are waited for where a result is asked for, which raises what `in_child` raises.
    """
    threads = ThreadPoolExecutor(children)
    work = partial(in_child, _each, function)
    parts = [threads.submit(work, things[first::children]) for first in range(min(children, len(things)))]
    threads.shutdown(wait=False)
    return (parts[at % children].result()[at // children] for at in range(len(things)))


def _each(function: Callable[[S], T], things: Sequence[S]) -> list[T]:
    return [function(thing) for thing in things]


@contextlib.contextmanager
def interruptible(work: str | None = None, *, errors: bool = False) -> Iterator[None]:
    """Where the main thread waits for children of other threads: what interrupts it ends them too.

    Ctrl-C and a cancelled flow run reach the main thread only; the others would compute on to their end. Of
    `work`, if it has a name that comes only once, no child is started any more. With `errors`, an error in
    the block ends them as well.
    """
    try:
        yield
    except BaseException as cause:
        if isinstance(cause, Exception) and not errors:
            raise
        with _status_lock:
            children = [child for child in active_children() if isinstance(child, ForkServerProcess)]
            _interrupted.update(children)
            if work is not None:
                _interrupted_work.add(work)
        for child in children:
            child.terminate()
        raise


def _follow(
    process: ForkServerProcess,
    receiver: "Connection[Any, bytes]",
    on_progress: Callable[[dict[str, Any]], None] | None,
    watch: Watch | None,
) -> Any:
    """Handle what the child sends until its result, its error or its death."""
    still_wanted = wanted()
    while True:
        # The pipe alone is not enough: a grandchild may hold it open after the child has died.
        ready = wait([receiver, process.sentinel], LOOK_SECONDS if watch or still_wanted else None)
        if watch is not None:
            watch.look()
        if still_wanted is not None and not still_wanted():
            raise Interrupted(f"{process.name} was ended: nobody waits for it any more")
        if not ready:
            continue
        try:
            message: Message | None = pickle.loads(receiver.recv_bytes()) if receiver.poll() else None
        except (EOFError, ConnectionError):
            message = None
        match message:
            case ("report", progress):
                if on_progress is not None:
                    on_progress(progress)
            case ("log", record):
                logging.getLogger(record.name).handle(record)  # the child has applied the level
            case ("result", result):
                _wait_for_end(process, GRACE_SECONDS)
                return result
            case ("error", (error, text)):
                _wait_for_end(process, GRACE_SECONDS)
                error.add_note(f"In the child process {process.name}:\n{text}")
                raise error
            case None:
                _wait_for_end(process, GRACE_SECONDS)
                raise (Interrupted if process in _interrupted else ChildDied)(_obituary(process))


def _obituary(process: ForkServerProcess) -> str:
    code = process.exitcode
    if code is None or code >= 0:
        return f"{process.name} (pid {process.pid}) left without a result, exit code {code}"
    cause = {
        signal.SIGKILL: "most likely the machine or the job ran out of memory",
        signal.SIGTERM: "it was asked to stop from outside",
        signal.SIGXCPU: "the limit on CPU time was reached",
    }.get(signal.Signals(-code), "a crash in compiled code; the log above has the place")
    return f"{process.name} (pid {process.pid}) was killed by {signal.Signals(-code).name}: {cause}"


def _wait_for_end(process: ForkServerProcess, seconds: float) -> bool:
    if not wait([process.sentinel], seconds):
        return False
    with _status_lock:
        process.join()
    return True


def _stop(process: ForkServerProcess) -> None:
    """End the child if it is still there: SIGTERM, then SIGKILL, even if another signal arrives meanwhile.

    What it started and left behind is killed.
    """
    if process.pid is None:
        return
    ended = _wait_for_end(process, 0)
    try:
        if not ended:
            process.terminate()
            ended = _wait_for_end(process, GRACE_SECONDS)
    finally:
        if not ended:
            process.kill()
            _wait_for_end(process, GRACE_SECONDS)
        kill_group(process.pid)


class _Relay(QueueHandler):
    """A handler that sends each record to the parent."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        super().__init__(queue=None)  # type: ignore[arg-type]  # enqueue is all that would use it
        self._send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        self._send(("log", record))


def _run(sender: "Connection[bytes, Any]", call: bytes) -> None:
    """The child's main function."""
    os.setpgrp()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then sends SIGTERM
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(message: Message) -> None:
        content = pickle.dumps(message)
        with lock:
            sender.send_bytes(content)

    root = logging.getLogger()
    root.handlers = [_Relay(send)]
    root.setLevel(logging.INFO)
    from models import devices  # and torch with it, for which the fork server is not to wait

    gc.freeze()  # the fork server's objects stay shared, and are not looked through
    gc.enable()
    forget_secrets()
    try:
        device, memory_gb, function, args, kwargs = pickle.loads(call)
        devices.choose(device)
        if devices.chosen().type == "cpu":  # a GPU's driver maps more than there is
            cap_memory(memory_gb)
        if "report" in inspect.signature(function).parameters:
            kwargs["report"] = lambda progress: send(("report", progress))
        send(("result", function(*args, **kwargs)))
    except Exception as error:
        send(("error", (_portable(error), traceback.format_exc())))
    except SystemExit:
        _die_as_asked()
        raise


def _portable(error: Exception) -> Exception:
    """The exception itself where it survives pickling, else its type and text."""
    with contextlib.suppress(Exception):
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _leave(_signal: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the clean-up is not to be interrupted by a second one
    raise SystemExit(128 + signal.SIGTERM)


def _die_as_asked() -> None:
    """After the clean-up that SIGTERM asked for, end by that signal, so that the parent can name it."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _die_with_parent() -> None:
    """Leave when the campaign's process has gone, however it went (the fork server is not our concern)."""
    campaign = parent_process()
    if campaign is not None:
        campaign.join()
        os.killpg(0, signal.SIGKILL)  # itself, and the programs that it started
