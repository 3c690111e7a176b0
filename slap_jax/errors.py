"""The base of every error that is meant for the user."""


class UserError(Exception):
    """An error that the user can act on.

    Its message names the file or setting, what was found, what was expected and what to do. The `slap` command prints
    it in one line; any other exception is a bug and keeps its traceback.
    """
