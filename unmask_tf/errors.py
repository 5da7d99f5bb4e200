"""The one exception for input a user can mend."""


class InputError(Exception):
    """Bad input: says what is wrong, where, and how to mend it. The command line exits with 2."""
