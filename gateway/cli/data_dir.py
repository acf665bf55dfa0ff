"""What does a machine remember of `sluice up` between two starts, and of the one that runs now?"""

import json
import os
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ready:
    """What a client needs to know of a gateway that serves: the ready file, as JSON."""

    base_url: str
    api_key: str
    admin_url: str
    admin_key: str
    models: tuple[str, ...]
    redis_url: str
    metrics_url: str
    pid: int


@dataclass(frozen=True, slots=True)
class DataDir:
    """The directory, readable by its owner alone; made when it is needed."""

    path: Path

    @property
    def store(self) -> Path:
        """Where the embedded store keeps its data."""
        return self.path / "store"

    @property
    def logs(self) -> Path:
        """Where child processes log."""
        return self.path / "logs"

    @property
    def api_key(self) -> Path:
        """The key that `sluice up` made once."""
        return self.path / "api-key"

    @property
    def admin_key(self) -> Path:
        """The admin key that `sluice up` made once."""
        return self.path / "admin-key"

    @property
    def running(self) -> Path:
        """The ready file of the `sluice up` that runs now."""
        return self.path / "running.json"

    def make(self) -> None:
        """Make it unless it is there; raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(mode=0o700, exist_ok=True)

    def ensure_admin_key(self) -> str:
        """Give the admin key, making it the first time."""
        return read_secret(self.admin_key) or self.keep(
            self.admin_key, lambda: f"sluice-admin-{secrets.token_urlsafe(32)}"
        )

    def keep(self, path: Path, make: Callable[[], str]) -> str:
        """Write a new secret down; give it."""
        secret = make()
        write_private(path, secret + "\n")
        return secret

    def read_running(self) -> Ready | None:
        """Find the `sluice up` that runs now in this directory."""
        try:
            found = json.loads(self.running.read_text(encoding="utf-8"))
            ready = Ready(**{**found, "models": tuple(found["models"])})
            os.kill(ready.pid, 0)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return ready


def read_secret(path: Path) -> str | None:
    """Read a secret from its file; None where there is none."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def write_ready(path: Path, ready: Ready) -> None:
    """Write the ready file."""
    write_private(path, json.dumps(asdict(ready), indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file at once or not at all, for its owner alone; raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
