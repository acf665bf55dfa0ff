"""What is simulated: which model on which GPU, how many replicas, and which faults?"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from backends.hardware import Profile, profile
from backends.simulated.sequences import EngineLimits


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, for tests; nothing by default.

    Rates are shares of the calls (0 to 1), drawn by `seed`. Frames are counted per stream, the role
    frame included; a stream fault strikes `stream_rate` of the streams.
    """

    refuse_rate: float = 0.0  # answered as if the queue were full
    fail_rate: float = 0.0  # answered 500 in plain text
    hang_rate: float = 0.0  # accepted, and never answered
    hang_accept: bool = False  # no request is ever answered, health and load included
    not_ready: bool = False  # /ready and /health answer 503
    hang_after_frames: int | None = None  # the stream goes silent
    die_after_frames: int | None = None  # the connection is cut
    error_after_frames: int | None = None  # an error frame, then the end
    abort_after_frames: int | None = None  # ends as aborted (0: with no token at all)
    stream_rate: float = 1.0
    slowdown: float = 1.0  # every step takes this many times as long
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> "Faults":
        """Read `name=value,name=value`; ValueError names the unknown or the malformed."""
        known = {f.name: f.type for f in fields(cls)}
        values: dict[str, float | int | bool] = {}
        for item in filter(None, text.split(",")):
            name, _, value = item.partition("=")
            if name not in known:
                raise ValueError(f"unknown fault {name!r}: known are {', '.join(known)}")
            if known[name] is bool:
                values[name] = value in ("", "1", "true")
            else:
                values[name] = float(value) if known[name] is float else int(value)
        return cls(**values)  # type: ignore[arg-type]  # each value was read as its field's type


@dataclass(frozen=True, slots=True)
class SimulatedSettings:
    """Replicas of one model on one kind of GPU, each on a port of its own.

    `throughput_scale` s divides c_tok and c_kv by s: decode latencies stay those of the GPU at a
    batch s times as large, the prefill of one prompt takes 1/s as long. None: as the profile of
    (model, hardware) says. `port` is the first replica's (0: any free ones); `disconnect_poll_s` is
    how often SGLang looks whether a caller is still there who has had no byte yet (unary, queued,
    prefilling); one who leaves a flowing stream is noticed at once. `otlp_traces_endpoint`:
    base URL of an OTLP/HTTP receiver that gets a span per generating request; None: none are made.
    `answers` are pairs of a text and what is said to a chat in which it stands, in place of words.
    """

    model: str = "llama2-70b"
    hardware: str = "mi355x"
    replicas: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    stream_interval: int = 1
    throughput_scale: float = 1.0
    max_running: int | None = None
    max_queued: int | None = None
    chunk_tokens: int | None = None
    kv_tokens: int | None = None
    context_tokens: int | None = None
    mean_output_tokens: float | None = None
    prefix_cache: bool = True
    cache_report: bool = True
    api_key: str | None = None
    keep_alive_s: float = 5.0
    disconnect_poll_s: float = 4.0
    embedding_size: int = 256
    otlp_traces_endpoint: str | None = None
    answers: tuple[tuple[str, str], ...] = ()
    faults: Faults = Faults()

    @property
    def profile(self) -> Profile:
        """What is known of the model on the GPU; UnknownHardware where it is none of ours."""
        return profile(self.model, self.hardware)

    @property
    def context(self) -> int:
        """Longest input and output together, in tokens."""
        return self.context_tokens or self.profile.context_tokens

    def limits(self) -> EngineLimits:
        """What one replica's engine holds."""
        known = self.profile
        return EngineLimits(
            max_running=self.max_running or known.max_running,
            chunk_tokens=self.chunk_tokens or known.chunk_tokens,
            kv_tokens=self.kv_tokens or known.kv_tokens,
            max_queued=self.max_queued,
            prefix_cache=self.prefix_cache,
        )


def as_dict(settings: SimulatedSettings) -> Mapping[str, object]:
    """Give the settings by name, as /server_info shows them (no key)."""
    names = (f.name for f in fields(settings) if f.name not in ("answers", "api_key", "faults"))
    return {name: getattr(settings, name) for name in names}
