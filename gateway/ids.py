"""How is a request, or a call in the ledger, named so that no two processes give the same name?"""

from random import getrandbits


def new_id() -> str:
    """Give 32 hexadecimal digits, of 128 random bits.

    From a generator that the system has seeded in each process: a sixth of uuid4's cost, which asks
    the system every time. Not for secrets.
    """
    return f"{getrandbits(128):032x}"


def new_request_id() -> str:
    """Give the id of a new request."""
    return f"req_{new_id()}"
