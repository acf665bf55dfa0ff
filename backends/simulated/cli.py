"""How are simulated replicas started from a command line?"""

import argparse
import asyncio
import gc
import json
import signal
import sys
from pathlib import Path

import uvloop

from backends.hardware import UnknownHardware, hardware, known_hardware
from backends.simulated.server import drain, serve_replicas
from backends.simulated.settings import Faults, SimulatedSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a simulated replica."""
    default = SimulatedSettings()
    add = parser.add_argument
    add("--model", default=default.model, help="name served; unknown ones are timed as llama2-70b")
    add("--hardware", default=default.hardware, help=f"one of {', '.join(known_hardware())}")
    add("--replicas", type=_positive, default=1, help="how many, each on a port of its own")
    add("--host", default=default.host)
    add("--port", type=int, default=0, help="port of the first replica (0: any free ones)")
    add("--stream-interval", type=_positive, default=1, help="tokens per streamed chunk")
    add(
        "--throughput-scale",
        type=float,
        default=1.0,
        help="token work per second, as a multiple of the GPU's: c_tok and c_kv are divided by "
        "it, so decode latencies stay "
        "and one prompt's prefill takes 1/scale as long",
    )
    add("--max-running-requests", type=_positive, help="default: the profile's")
    add("--max-queued-requests", type=int, help="default: no limit")
    add(
        "--chunked-prefill-size",
        type=_positive,
        help="prefill tokens per step; default: the profile's",
    )
    add("--max-total-tokens", type=_positive, help="KV tokens; default: the profile's")
    add("--context-length", type=_positive, help="default: the profile's")
    add(
        "--mean-output-tokens",
        type=float,
        help="mean of the drawn output length; default: the profile's",
    )
    add("--disable-radix-cache", action="store_true", help="no prefix is ever cached")
    add("--enable-cache-report", action=argparse.BooleanOptionalAction, default=True)
    add("--enable-trace", action="store_true", help="send a span per request over OTLP/HTTP")
    add("--otlp-traces-endpoint", default="localhost:4318", metavar="HOST:PORT")
    add("--api-key", help="ask for it as a bearer token")
    add(
        "--faults",
        default="",
        metavar="NAME=VALUE,...",
        help="for tests: see backends.simulated.settings.Faults",
    )
    add(
        "--ready-file",
        type=Path,
        metavar="F",
        help="write what is printed to this file too, once it serves",
    )


def settings_of(args: argparse.Namespace) -> SimulatedSettings:
    """Give the settings that parsed options name; ValueError or UnknownHardware where one is
    wrong.
    """
    hardware(args.hardware)
    return SimulatedSettings(
        model=args.model,
        hardware=args.hardware,
        replicas=args.replicas,
        host=args.host,
        port=args.port,
        stream_interval=args.stream_interval,
        throughput_scale=args.throughput_scale,
        max_running=args.max_running_requests,
        max_queued=args.max_queued_requests,
        chunk_tokens=args.chunked_prefill_size,
        kv_tokens=args.max_total_tokens,
        context_tokens=args.context_length,
        mean_output_tokens=args.mean_output_tokens,
        prefix_cache=not args.disable_radix_cache,
        cache_report=args.enable_cache_report,
        api_key=args.api_key,
        otlp_traces_endpoint=f"http://{args.otlp_traces_endpoint}" if args.enable_trace else None,
        faults=Faults.parse(args.faults),
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT (which drain; a second one ends at once); give the exit
    status.
    """
    try:
        settings = settings_of(args)
    except (ValueError, UnknownHardware) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, args.ready_file))
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command `python -m backends.simulated`."""
    parser = argparse.ArgumentParser(
        prog="python -m backends.simulated",
        description="Serve replicas with SGLang's HTTP surface and the timing of a given GPU.",
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


async def _serve(settings: SimulatedSettings, ready_file: Path | None) -> None:
    asked = asyncio.Queue[int]()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.put_nowait, number)
    async with serve_replicas(settings) as replicas:
        gc.collect()
        gc.freeze()  # what was made to start stays: no collection looks at it again
        _announce(settings, [replica.url for replica in replicas], ready_file)
        await asked.get()
        draining = asyncio.create_task(drain(replicas))
        again = asyncio.create_task(asked.get())
        _, unfinished = await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
        for task in unfinished:
            task.cancel()


def _announce(settings: SimulatedSettings, urls: list[str], ready_file: Path | None) -> None:
    text = json.dumps({"model": settings.model, "hardware": settings.hardware, "urls": urls})
    if ready_file is not None:
        # Whoever waits for the file must never read half of it.
        partial = ready_file.with_name(ready_file.name + ".partial")
        partial.write_text(text + "\n")
        partial.replace(ready_file)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
