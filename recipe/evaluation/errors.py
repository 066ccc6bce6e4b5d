"""The error of this package: input that cannot be used, said in one line."""


class InputError(ValueError):
    """Bad input. The message is one line and names the file, row, column or key at fault."""
