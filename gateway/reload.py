"""What of the settings may change while a gateway runs, and who is told that something did?

A reload reads the file again as the start did. A fault changes nothing. What cannot change in a
running process (addresses, the store, ...) is named in the answer and waits for a restart.
"""

import asyncio
import ssl
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field

import structlog

from backends.registry import Registry
from backends.slo import Class
from gateway.config import ConfigError
from gateway.services import Services
from gateway.settings import Settings

LIVE = ("classes", "default_class", "fetch", "isolation", "limits", "models", "tls")


@dataclass(frozen=True, slots=True)
class Changes:
    """Sections that hold now, and sections that a restart would change."""

    applied: tuple[str, ...]
    after_restart: tuple[str, ...]


@dataclass(slots=True)
class Reloader:
    """Reads the settings again by `again` (None: they came from no file) and puts them in force."""

    services: Services
    again: Callable[[], Settings] | None
    context: ssl.SSLContext | None = None
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reload(self) -> Changes:
        """Put what has changed in force; raises ConfigError, and then nothing has changed."""
        if self.again is None:
            raise ConfigError("this gateway was started without a file to read again")
        async with self._one_at_a_time:
            new = await asyncio.to_thread(self.again)
            return self._apply(new)

    def _apply(self, new: Settings) -> Changes:
        old, services = self.services.settings, self.services
        changed = [n for n in Settings.model_fields if getattr(new, n) != getattr(old, n)]
        if self.context is not None:
            load_certificate(self.context, new)  # raises before anything else is changed
        kept = {n: getattr(new if n in LIVE else old, n) for n in Settings.model_fields}
        services.settings = old.model_copy(update=kept)
        _replace(services.classes, new.classes_by_name())
        if isinstance(services.registry, Registry):
            services.registry.configure(new.adopted_replicas())
        return Changes(
            tuple(n for n in changed if n in LIVE), tuple(n for n in changed if n not in LIVE)
        )

    async def on_signal(self) -> None:
        """Reload, and say in the log how it went."""
        log = structlog.get_logger("admin")
        try:
            found = await self.reload()
        except ConfigError as error:
            log.error("reload_refused", why=str(error))
        else:
            log.info("reloaded", applied=found.applied, after_restart=found.after_restart)


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """Give the API's TLS; None without. TLS 1.2 and later. Raises ConfigError."""
    if settings.tls.cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, settings)
    return context


def load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Take the files' certificate for handshakes from now on; raises ConfigError."""
    tls = settings.tls
    if tls.cert_file is None or tls.key_file is None:
        raise ConfigError("tls: it cannot be switched off without a restart")
    try:
        # Into one of its own first: a pair that does not fit must not half replace the old one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert_file, tls.key_file)
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls: {tls.cert_file} and {tls.key_file}: {error}") from error


def _replace(classes: object, new: dict[str, Class]) -> None:
    """Change the one mapping that all stages share, at once: nothing awaits in between."""
    if not isinstance(classes, MutableMapping):
        raise TypeError("the classes of a running gateway are a dict")
    classes.update(new)
    for name in [each for each in classes if each not in new]:
        del classes[name]
