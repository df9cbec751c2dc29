"""The one exception family that the command line prints without a traceback."""


class HemnetError(Exception):
    """Something a user can put right: the message names the thing, the cause and the remedy."""
