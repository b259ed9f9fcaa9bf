"""Errors that are the user's to mend."""


class UserError(Exception):
    """Wrong input: the message alone tells what, where and what to do (exit code 2)."""


class SampleError(UserError):
    """One sample is bad: met by whichever process read it, not by all of them."""
