"""Exceptions that are reported to the user in one line, without a traceback."""


class UserError(Exception):
    """Wrong input (exit code 2); the message names the cause, the place and the remedy."""


class SampleError(UserError):
    """Unusable sample; raised only by the process that read it, not by all processes."""


class StorageError(UserError):
    """Failed read or write (network, disk, permissions); raised by one process, not by all."""


class RunFailed(Exception):
    """Failure that ends the run (exit code 1)."""


class Stopped(BaseException):
    """Orderly stop on request, by a signal for example (exit code 75).

    Derived from BaseException because it is raised from a signal handler at any place: an
    `except Exception` around a retry must not swallow it.
    """


class ProcessStopped(Stopped):
    """Stop of one process that could not wait for the others; reported by that process."""


class ProcessFailed(RunFailed):
    """Failure of one process; reported by that process, and the launcher ends the others."""


class WorkerDied(RunFailed):
    """Death of a data worker of this process."""


class DataTimeout(RunFailed):
    """Wait for data that took longer than allowed."""


class PartDone(Exception):
    """Orderly end of a process whose portion of divided work is done (exit code 0).

    Another process joins the portions.  The message, if any, is for the user.
    """
