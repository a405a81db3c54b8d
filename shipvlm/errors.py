"""The errors the command line reports: one message that says what is wrong and what to do, one exit code."""


class ShipvlmError(Exception):
    """Base of every error meant for the person at the command line.

    `exit_code` is the exit status of the `shipvlm` command when the error reaches it.
    """

    exit_code: int = 4


class GateError(ShipvlmError):
    """A measured result does not pass its gate (a leak between data sets, a threshold missed)."""

    exit_code = 1


class InputError(ShipvlmError):
    """Something the user gave is wrong: a file, a folder, an option, a row."""

    exit_code = 2


class SetupError(ShipvlmError):
    """The machine lacks something the request needs: a package, a device, disk space."""

    exit_code = 3


class ExecutionError(ShipvlmError):
    """The inputs and the machine are fine, but the work itself failed."""

    exit_code = 4


class Interrupted(ShipvlmError):
    """The person stopped the work; what was finished is kept. The code is the shell's for Ctrl-C."""

    exit_code = 130
