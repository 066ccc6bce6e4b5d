"""The error that all programs of the recipe turn into one line and exit code 2."""


class InputError(ValueError):
    """A fault of the user's input.

    Its message is one line that names the file, column, option or key at fault and the way out.
    """
