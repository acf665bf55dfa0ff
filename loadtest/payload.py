"""How does a sample become the bytes of a request?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from loadtest.dataset import Sample
from loadtest.scenario import Scenario
from loadtest.target import Target

# The service tier by which a client asks for a class.
_TIERS = {"interactive": "priority", "server": "default", "offline": "flex"}
PATHS = {"chat": "/chat/completions", "completions": "/completions", "videos": "/videos"}


class Requests:
    """Writes the requests of a run: one target, one scenario, one model name."""

    def __init__(
        self,
        target: Target,
        scenario: Scenario,
        *,
        model: str,
        api_key: str = "",
        tenant_keys: Mapping[str, str] | None = None,
    ) -> None:
        self._target = target
        self._api = scenario.api
        self.path = PATHS[scenario.api]
        self._base: dict[str, Any] = {"model": model, **scenario.request}
        if scenario.service_tier and scenario.api != "videos":
            self._base["service_tier"] = scenario.service_tier
        if scenario.api != "videos":
            self._base |= {"stream": True, "stream_options": {"include_usage": True}}
        self._headers = {"Content-Type": "application/json", "User-Agent": "sluice-certify"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._by_tenant = {
            tenant: self._headers | {"Authorization": f"Bearer {key}"}
            for tenant, key in (tenant_keys or {}).items()
        }

    def body(self, sample: Sample) -> dict[str, Any]:
        """Build a request body."""
        body = dict(self._base)
        prompt = sample.prompt
        if self._api == "chat":
            chat = (
                not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Mapping)
            )
            body["messages"] = prompt if chat else [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if sample.max_tokens is not None and self._api != "videos":
            body["max_tokens"] = sample.max_tokens
        if sample.exact_tokens is not None and self._api != "videos":
            body["ignore_eos"] = True
        if sample.group in _TIERS and self._api != "videos":
            body["service_tier"] = _TIERS[sample.group]
        return body

    def generate(self, sample: Sample) -> bytes:
        """Write the request that starts a generation."""
        body = orjson.dumps(self.body(sample))
        headers = self._by_tenant.get(sample.tenant, self._headers)
        return self._target.request("POST", self.path, body, headers)

    def get(self, path: str) -> bytes:
        """Write a GET below the base URL."""
        return self._target.request("GET", path, b"", self._headers)
