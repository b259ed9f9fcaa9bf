"""Errors that end in a line for the user, not in a traceback."""


class UserError(Exception):
    """Wrong input: the message alone tells what, where and what to do (exit code 2)."""


class SampleError(UserError):
    """One sample is bad: met by whichever process read it, not by all of them."""


class RunFailed(Exception):
    """Training cannot go on (exit code 1)."""
