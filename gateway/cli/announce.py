"""What does a person need to read to make the first call?"""

import json
import shlex
from collections.abc import Sequence

from gateway.cli.data_dir import DataDir, Ready, read_secret


def announcement(ready: Ready, data: DataDir, *, later: Sequence[str] = ()) -> str:
    """Write addresses, key, models, and a `curl` line that works; `later` models still start."""
    is_kept = read_secret(data.admin_key) == ready.admin_key
    place = f"its key is in {data.admin_key}" if is_kept else "its key is the configured one"
    models = ", ".join([*ready.models, *(f"{each} (still starting)" for each in later)])
    lines = [
        "",
        f"Sluice serves {ready.base_url}",
        f"  API key  {ready.api_key}",
        f"  models   {models or 'none yet: sluice replicas add'}",
        f"  admin    {ready.admin_url} ({place})",
        f"  metrics  {ready.metrics_url}",
        f"  logs     {data.logs}",
        "",
    ]
    if ready.models:
        lines += ["Try it:", f"  {curl(ready)}", ""]
    return "\n".join([*lines, "Ctrl-C ends all of it."])


def curl(ready: Ready) -> str:
    """Write a call of the first model as a line for a shell."""
    body = {
        "model": ready.models[0],
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "stream": True,
    }
    words = (
        *("curl", "-N", f"{ready.base_url}/chat/completions"),
        *("-H", f"Authorization: Bearer {ready.api_key}"),
        *("-H", "Content-Type: application/json"),
        *("-d", json.dumps(body)),
    )
    return shlex.join(words)
