"""What GPU is it, and what are the law's constants for a model on it?

Every figure carries its source, or says that it is an assumption, as data (`provenance`), so that a
plan made from it can say how far to trust it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from backends.capacity import Mix, StepLaw

_DATA_SHEET = "AMD data sheet"
_CALIBRATED = (
    "fitted to AMD's MLPerf Inference v6.0 results on 8x MI355X (Offline 103,040, Interactive "
    "73,706; Server 100,282 tok/s "
    "not fitted, reproduced to -0.4 %)"
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of node: its GPUs, and each GPU's memory (bytes) and peak bandwidth (bytes per
    second).
    """

    name: str
    title: str
    gpus_per_node: int
    memory_bytes: float
    bandwidth_bytes_per_s: float
    provenance: str = _DATA_SHEET


@dataclass(frozen=True, slots=True)
class Profile:
    """A model on a kind of GPU, one replica per GPU: the law's constants and what else a replica
    needs to know.

    `kv_tokens` fit into the KV cache; `context_tokens` is the longest input and output together;
    `max_running` and `chunk_tokens` (prefill tokens in a step) are an operator's knobs, given here
    as for the Server scenario. `output_sigma` is the spread of a lognormal output length.
    `provenance` says of each field where it is from.
    """

    model: str
    hardware: Hardware
    law: StepLaw
    mix: Mix
    kv_tokens: int
    context_tokens: int
    max_running: int
    chunk_tokens: int
    output_sigma: float
    provenance: Mapping[str, str] = field(hash=False)

    @property
    def assumed(self) -> tuple[str, ...]:
        """The fields that rest on an assumption."""
        return tuple(k for k, v in self.provenance.items() if v.startswith("assumption"))


class UnknownHardware(LookupError):
    """No hardware of that name; the message lists the known ones."""


@dataclass(frozen=True, slots=True)
class _Model:
    """What of a model does not depend on the GPU."""

    mix: Mix
    context_tokens: int
    max_running: int
    chunk_tokens: int
    output_sigma: float
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Constants:
    law: StepLaw
    kv_tokens: int
    provenance: Mapping[str, str]


_HARDWARE = MappingProxyType(
    {
        h.name: h
        for h in (
            Hardware("mi355x", "AMD Instinct MI355X", 8, 288e9, 8.0e12),
            Hardware("mi325x", "AMD Instinct MI325X", 8, 256e9, 6.0e12),
            Hardware("mi300x", "AMD Instinct MI300X", 8, 192e9, 5.3e12),
        )
    }
)

_MODELS = MappingProxyType(
    {
        "llama2-70b": _Model(
            mix=Mix(294.0, 294.45, spread=1.59),
            context_tokens=4096,
            max_running=2048,
            chunk_tokens=4096,
            output_sigma=0.465,
            provenance={
                "input_tokens": "assumption: mean OpenOrca input is not published; taken equal to "
                "the output",
                "output_tokens": "MLPerf Inference v6.0 policy, tokens per sample 294.45",
                "spread": "chosen with the law's calibration (length-biased resident context of "
                "528 tokens)",
                "context_tokens": "Llama 2 model card",
                "max_running": "calibration's operator setting, Server",
                "chunk_tokens": "calibration's operator setting, Server",
                "output_sigma": "fitted to median 263, p90 476, p95 567 over public MLPerf TEST06 "
                "logs",
            },
        ),
        "gpt-oss-120b": _Model(
            mix=Mix(1278.0, 1278.2, spread=1.04),
            context_tokens=32_768,
            max_running=1024,
            chunk_tokens=8192,
            output_sigma=0.204,
            provenance={
                "input_tokens": "assumption: mean input is not published (maximum 15,330); taken "
                "equal to the output",
                "output_tokens": "MLPerf Inference v6.0 reference, mean 1278.2",
                "spread": "AMD's v6.0 logs, mean 1383, standard deviation 284",
                "context_tokens": "AMD's v6.0 submission, max_model_len 32,768",
                "max_running": "AMD's v6.0 submission, Server, max_num_seqs 1024",
                "chunk_tokens": "assumption: twice Llama-2-70B's",
                "output_sigma": "AMD's v6.0 logs, standard deviation over mean 0.205",
            },
        ),
    }
)

_LLAMA_355 = StepLaw(c0_s=10.5e-3, c_tok_s=30.6e-6, c_kv_s=26.7e-9)
# 76.8 us per sequence-step = c_tok*(1 + in/out) + c_kv*(resident 1943 tokens)
_GPT_OSS_355 = StepLaw(c0_s=14.5e-3, c_tok_s=35.4e-6, c_kv_s=3.1e-9)
_MI325X_SLOWER = 3.1  # 100,282 / 32,028 tok/s per node, Server


def _slower(law: StepLaw, c0_s: float, c_tok: float, c_kv: float) -> StepLaw:
    return StepLaw(c0_s, law.c_tok_s * c_tok, law.c_kv_s * c_kv)


_GPT_OSS_ASSUMED = (
    "assumption: analytic prior (c0 12-17 ms, 76-78 us per sequence-step) for node "
    "targets of 95,381 tok/s Offline and 82,366 Server"
)
_325_RATIO = (
    "assumption: 3.1 times MI355X's until measured (Server node 32,028 against 100,282 "
    "tok/s, MLPerf v6.0)"
)
_325_C0 = (
    "assumption: weights in FP8 over 75 % of peak bandwidth, plus MI355X's 3.8 ms of launch "
    "and sampling"
)
_BANDWIDTH_C0 = "assumption: MI355X's, longer by the ratio of memory bandwidths"
_300_RATIO = (
    "assumption: MI325X's, with c_kv longer by the ratio of memory bandwidths; not "
    "derivable from published results"
)
_KV = "derived: (0.9 * memory - weights) / KV bytes per token"

_CONSTANTS = MappingProxyType(
    {
        ("llama2-70b", "mi355x"): _Constants(
            _LLAMA_355,
            1_300_000,
            {
                "c0_s": _CALIBRATED,
                "c_tok_s": _CALIBRATED,
                "c_kv_s": "derived: 160 kB per KV token (FP8) over 75 % of 8 TB/s",
                "kv_tokens": _KV + ": weights 40 GB (MXFP4), 160 kB",
            },
        ),
        ("llama2-70b", "mi325x"): _Constants(
            _slower(_LLAMA_355, 19.4e-3, _MI325X_SLOWER, _MI325X_SLOWER),
            1_000_000,
            {
                "c0_s": _325_C0,
                "c_tok_s": _325_RATIO,
                "c_kv_s": _325_RATIO,
                "kv_tokens": _KV + ": weights 70 GB (FP8), 160 kB",
            },
        ),
        ("llama2-70b", "mi300x"): _Constants(
            _slower(_LLAMA_355, 21.4e-3, _MI325X_SLOWER, _MI325X_SLOWER * 6.0 / 5.3),
            640_000,
            {
                "c0_s": _325_C0,
                "c_tok_s": _300_RATIO,
                "c_kv_s": _300_RATIO,
                "kv_tokens": _KV + ": weights 70 GB (FP8), 160 kB",
            },
        ),
        ("gpt-oss-120b", "mi355x"): _Constants(
            _GPT_OSS_355,
            5_300_000,
            {
                "c0_s": _GPT_OSS_ASSUMED,
                "c_tok_s": _GPT_OSS_ASSUMED,
                "c_kv_s": "assumption: 36.9 kB per KV token (FP8), half the layers see 128 "
                "tokens, 75 % of 8 TB/s",
                "kv_tokens": _KV + ": weights 63 GB (MXFP4), 36.9 kB",
            },
        ),
        ("gpt-oss-120b", "mi325x"): _Constants(
            _slower(_GPT_OSS_355, 19.3e-3, _MI325X_SLOWER, _MI325X_SLOWER),
            4_500_000,
            {
                "c0_s": _BANDWIDTH_C0,
                "c_tok_s": _325_RATIO,
                "c_kv_s": _325_RATIO,
                "kv_tokens": _KV + ": weights 63 GB (MXFP4), 36.9 kB",
            },
        ),
        ("gpt-oss-120b", "mi300x"): _Constants(
            _slower(_GPT_OSS_355, 21.9e-3, _MI325X_SLOWER, _MI325X_SLOWER * 6.0 / 5.3),
            2_900_000,
            {
                "c0_s": _BANDWIDTH_C0,
                "c_tok_s": _300_RATIO,
                "c_kv_s": _300_RATIO,
                "kv_tokens": _KV + ": weights 63 GB (MXFP4), 36.9 kB",
            },
        ),
    }
)
_FALLBACK_MODEL = "llama2-70b"
# Gateways and the autoscaler count a call's token work by its model's law on this.
REFERENCE_HARDWARE = "mi355x"


def hardware(name: str) -> Hardware:
    """Give the hardware of a name; UnknownHardware lists the known names."""
    found = _HARDWARE.get(name)
    if found is None:
        raise UnknownHardware(f"unknown hardware {name!r}: known are {', '.join(_HARDWARE)}")
    return found


def known_hardware() -> tuple[str, ...]:
    """The names that `hardware` knows."""
    return tuple(_HARDWARE)


def known_models() -> tuple[str, ...]:
    """The models whose constants are known; any other is given Llama-2-70B's, labelled as an
    assumption.
    """
    return tuple(_MODELS)


def profile(model: str, hardware_name: str) -> Profile:
    """Give what is known of a model on a kind of GPU.

    An unknown model is given Llama-2-70B's figures, each labelled as an assumption; unknown
    hardware raises UnknownHardware.
    """
    on = hardware(hardware_name)
    known = _MODELS.get(model)
    spec = known or _MODELS[_FALLBACK_MODEL]
    constants = _CONSTANTS[model if known else _FALLBACK_MODEL, hardware_name]
    provenance = {**spec.provenance, **constants.provenance}
    if known is None:
        note = f"assumption: {model!r} is not known, so as for {_FALLBACK_MODEL}"
        provenance = dict.fromkeys(provenance, note)
    return Profile(
        model=model,
        hardware=on,
        law=constants.law,
        mix=spec.mix,
        kv_tokens=constants.kv_tokens,
        context_tokens=spec.context_tokens,
        max_running=spec.max_running,
        chunk_tokens=spec.chunk_tokens,
        output_sigma=spec.output_sigma,
        provenance=MappingProxyType(provenance),
    )
