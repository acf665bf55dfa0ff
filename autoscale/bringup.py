"""How is a new model brought up on its first day? Canary, speed, and what classes may ask of it.

It has been started (`docs/mi355x.md`) and serves nobody yet.
"""

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoscale.calibrate import Calibrated, CalibrationFailed, calibrate
from autoscale.commands import Failed as Failed
from backends.canary import CanaryFileError, Findings, read, shipped
from backends.capacity import Carried, Mix, StepLaw, carried
from backends.fleet import Replica
from backends.hardware import known_models, profile
from backends.proving import examine
from backends.slo import MLPERF_CLASSES

_USUAL = Mix(300.0, 300.0)


def measure(arguments: Sequence[str]) -> int:
    """Bring up a new replica: ask its canary, measure its speed, propose what classes may ask."""
    options = _measured().parse_args(arguments)
    replica = Replica(
        id=options.replica, model=options.model, url=options.replica, api_key=options.api_key
    )
    findings = _asked(replica, options.canary)
    try:
        found = asyncio.run(
            calibrate(
                options.replica,
                options.model,
                api_key=options.api_key,
                most_running=options.most_running,
            )
        )
    except CalibrationFailed as error:
        raise Failed(str(error)) from error
    mix = _mix(options)
    profile_ = document(found, options.model, options.hardware, findings, mix)
    text = json.dumps(profile_, indent=1)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    print(proposal(limits(found.law, mix, options.model), mix), file=sys.stderr)
    return 0


def limits(law: StepLaw, mix: Mix, model: str) -> dict[str, Carried]:
    """Give what one replica carries within each class that promises a time per token.

    Such as MLPerf's classes for the model; `mix` is the traffic that it is to carry.
    """
    return {
        each.name: carried(law, mix, each.targets(model))
        for each in MLPERF_CLASSES
        if each.targets(model).tpot_s is not None
    }


def proposal(found: Mapping[str, Carried], mix: Mix) -> str:
    """Word what `limits` gives for an operator."""
    lines = [f"with {mix.input_tokens:.0f} tokens in and {mix.output_tokens:.0f} out per call:"]
    for name, each in found.items():
        what = (
            "not even one call keeps its limits"
            if each.bound == "unreachable"
            else f"{each.running:.0f} calls at once, {each.tokens_per_s:.0f} tokens per second"
        )
        lines.append(f"  {name:12} {what}")
    most = max((each.running for each in found.values()), default=0.0)
    if most >= 1:
        lines.append(f"start replicas with --max-running-requests {math.ceil(most)} or more")
    return "\n".join(lines)


def document(
    found: Calibrated, model: str, hardware: str, canary: Findings | None, mix: Mix
) -> dict[str, Any]:
    """Write a hardware profile for `--out`; `canary` None: none was asked."""
    return {
        "model": model,
        "hardware": hardware,
        "law": {
            "c0_s": found.law.c0_s,
            "c_tok_s": found.law.c_tok_s,
            "c_kv_s": found.law.c_kv_s,
            "c_pre_s": found.law.prefill_token_s,
        },
        "relative_error": round(found.error, 4),
        "canary": None if canary is None else f"{canary.right}/{len(canary.answers)}",
        "limits": {
            name: {
                "running": round(each.running, 1),
                "tokens_per_s": round(each.tokens_per_s, 1),
                "bound": each.bound,
            }
            for name, each in limits(found.law, mix, model).items()
        },
        "mix": {"input_tokens": mix.input_tokens, "output_tokens": mix.output_tokens},
        "provenance": f"measured by sluice calibrate, {len(found.points)} points",
        "points": [
            {
                "running": p.running,
                "prompt_tokens": p.prompt_tokens,
                "step_ms": round(p.step_s * 1e3, 3),
            }
            for p in found.points
        ],
    }


def _mix(options: argparse.Namespace) -> Mix:
    """Give the mean call that was asked for, or that is known of the model."""
    name = options.model
    known = profile(name, "mi355x").mix if name in known_models() else _USUAL
    return Mix(
        options.input_tokens or known.input_tokens,
        options.output_tokens or known.output_tokens,
        known.spread,
    )


def _measured() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice calibrate", description=measure.__doc__)
    add = parser.add_argument
    add("--replica", required=True, metavar="URL", help="it should serve nobody else meanwhile")
    add("--model", required=True)
    add("--hardware", default="measured", help="a name for the kind of GPU")
    add("--api-key")
    add("--canary", metavar="FILE", help="questions to ask first; `off`: none (default: shipped)")
    add("--most-running", type=int, default=64, help="calls at once at the most (default: 64)")
    add("--input-tokens", type=float, help="of the mean call (default: the model's, or 300)")
    add("--output-tokens", type=float, help="of the mean call (default: the model's, or 300)")
    add("--out", type=Path, metavar="F", help="write the profile (JSON)")
    return parser


def _asked(replica: Replica, given: str | None) -> Findings | None:
    """Ask a replica its canary, and go no further where it fails."""
    try:
        canary = None if given == "off" else read(Path(given)) if given else shipped(replica.model)
    except CanaryFileError as error:
        raise Failed(f"--canary: {error}", 2) from error
    if canary is None:
        print(f"no canary is asked: none is known for {replica.model}", file=sys.stderr)
        return None
    findings = asyncio.run(examine(replica, canary))
    print(findings.told(), file=sys.stderr)
    if not findings.is_passed:
        raise Failed("a replica that answers wrongly is not worth measuring (`--canary off` does)")
    return findings
