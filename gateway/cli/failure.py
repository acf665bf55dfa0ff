"""How does a command end when it cannot do what was asked?"""

USAGE = 2


class CommandFailed(Exception):
    """Told on standard error as it is; `status` is the exit status (2: the words were wrong)."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
