"""Errors that end in a line for the user, not in a traceback."""


class UserError(Exception):
    """Wrong input: the message alone tells what, where and what to do (exit code 2)."""


class SampleError(UserError):
    """One sample is bad: met by whichever process read it, not by all of them."""


class StorageError(UserError):
    """Bytes cannot be had (network, disk, permissions): no sample's fault, met by one process."""


class RunFailed(Exception):
    """Training cannot go on (exit code 1)."""


class Stopped(BaseException):
    """Asked to stop, and stopped in order (exit code 75).

    No Exception: a signal raises it anywhere, and nobody may take it for a try that failed.
    """


class ProcessStopped(Stopped):
    """By one process, which could not wait for the others: it tells, as ProcessFailed does."""


class ProcessFailed(RunFailed):
    """Met by one process, not by all of them: it tells, and the launcher ends the others."""


class WorkerDied(RunFailed):
    """A data worker of this process was killed."""
