"""What was tested, by its own account, and what tested it?"""

from __future__ import annotations

import json
import os
import platform
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

# Asked below the origin, in this order; whatever answers JSON is kept.
_PAGES = ("/version", "/health", "/v1/models", "/get_server_info")
_REPLICAS = "/admin/replicas"
_KEPT_CHARS = 200_000


@dataclass(frozen=True, slots=True)
class Admin:
    """Where the gateway's admin API is, and its key; empty for none."""

    url: str = ""
    key: str = ""


def collect(
    base_url: str, *, api_key: str = "", admin: Admin | None = None, generators: int = 1
) -> dict[str, Any]:
    """Ask the endpoint about itself. What it does not answer is left out; nothing raises."""
    url = urlsplit(base_url)
    origin = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    pages: dict[str, Any] = {}
    headers: dict[str, str] = {}
    for path in _PAGES:
        answer = _get(origin + path, api_key)
        if answer is None:
            continue
        headers, page = answer
        if page is not None:
            pages[path] = page
    replicas = []
    if admin is not None and admin.url:
        answer = _get(admin.url.rstrip("/") + _REPLICAS, admin.key)
        if answer is not None and isinstance(answer[1], dict):
            replicas = list(answer[1].get("data") or ())
    return {
        "base_url": base_url,
        "tested_at": time.time(),
        "server": {k: v for k, v in headers.items() if k in ("server", "x-sluice-version")},
        "reported": pages,
        "replicas": replicas,
        "generator": {
            "processes": generators,
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "locust": _version("locust"),
            "gevent": _version("gevent"),
            "sluice": _version("sluice"),
        },
    }


def simulated(found: Mapping[str, Any]) -> list[str]:
    """Tell which models are served by simulated replicas, as far as the endpoint says."""
    models = {
        str(replica.get("model"))
        for replica in found.get("replicas") or ()
        if replica.get("engine") == "simulated"
    }
    return sorted(models)


def fleet(found: Mapping[str, Any]) -> list[tuple[str, str, str, int]]:
    """Count replicas by model, engine and hardware."""
    counts = Counter(
        tuple(str(replica.get(name) or "?") for name in ("model", "engine", "hardware"))
        for replica in found.get("replicas") or ()
    )
    return [(model, engine, hardware, n) for (model, engine, hardware), n in sorted(counts.items())]


def _get(url: str, api_key: str) -> tuple[dict[str, str], Any] | None:
    request = urllib.request.Request(url, headers={"User-Agent": "sluice-certify"})  # noqa: S310
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with urllib.request.urlopen(request, timeout=3) as answer:  # noqa: S310  the operator's URL
            headers = {name.lower(): value for name, value in answer.headers.items()}
            text = answer.read(_KEPT_CHARS + 1)
    except (urllib.error.URLError, OSError, ValueError):
        return None
    if len(text) > _KEPT_CHARS:
        return headers, None
    try:
        return headers, json.loads(text)
    except ValueError:
        return headers, None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
