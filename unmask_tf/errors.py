"""The one exception for input that a user can fix."""


class InputError(Exception):
    """Bad input: says what is wrong, where, and how to fix it. The command line exits with 2."""
