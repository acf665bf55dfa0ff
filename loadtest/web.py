"""What does our part of Locust's web page show: TTFT and TPOT beside the response time, live?"""

from __future__ import annotations

from importlib import resources
from typing import Any

from flask import Blueprint, Response, jsonify

from loadtest import scenario
from loadtest.live import Live
from loadtest.options import RunOptions

_SCRIPT = '<script src="{base}/token-latencies/live.js" defer></script></body>'


def extend(environment: Any, live: Live) -> None:
    """Add the charts' data and script to Locust's page."""
    pages = Blueprint("token_latencies", __name__, url_prefix="/token-latencies")
    base = (getattr(environment.parsed_options, "web_base_path", "") or "").rstrip("/")

    @pages.route("/data")
    def data() -> Response:
        return jsonify(points=live.points(), **_limits(environment))

    @pages.route("/live.js")
    def script() -> Response:
        text = resources.files("loadtest").joinpath("pages", "live.js").read_text("utf-8")
        return Response(text.replace("__BASE__", base), mimetype="text/javascript")

    app = environment.web_ui.app
    app.register_blueprint(pages, url_prefix=f"{base}/token-latencies")

    @app.after_request  # type: ignore[untyped-decorator]
    def add_script(response: Response) -> Response:
        """Add our script to the page itself, which Locust builds without a place for one."""
        if response.mimetype == "text/html" and response.status_code == 200:
            page = response.get_data(as_text=True)
            if 'id="root"' in page:
                response.set_data(page.replace("</body>", _SCRIPT.format(base=base)))
        return response


def _limits(environment: Any) -> dict[str, Any]:
    """Tell the scenario's limits (ms), or nothing when the options name none."""
    options = RunOptions.of(environment.parsed_options)
    try:
        found = scenario.load(options.scenario, options.model)
    except scenario.ScenarioError:
        return {"title": "", "limits": {}}
    limits = {
        "latency": found.rules.latency_ns,
        "ttft": found.rules.ttft_ns,
        "tpot": found.rules.tpot_ns,
        "lateness": found.rules.late_p99_ns,
    }
    return {
        "title": f"{found.model} {found.name}",
        "limits": {name: value / 1e6 for name, value in limits.items() if value},
    }
