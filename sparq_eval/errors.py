"""The one error that a user is meant to read."""


class UserError(Exception):
    """Bad input: the message names the key, the value and what would be right. Shown without a traceback."""
