"""Answer POST /refine (and /segment, with a detector) over HTTP, with a page at / to see it work.

Every option is also a variable (BPR_MAX_REQUESTS) and a line of a TOML file (max_requests = 16).

bpr serve --port 8000
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from bpr._extras import require
from bpr.scripts.options import parse_path

NEEDED = (
    "defusedxml",
    "fastapi",
    "httpx",
    "prometheus_client",
    "pydantic_settings",
    "uvicorn",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bpr serve`: one for every setting."""
    parser.add_argument(
        "--config", type=parse_path, metavar="FILE", help="TOML file with settings, or BPR_CONFIG"
    )
    require(*NEEDED, purpose="bpr serve")
    from bpr.service.settings import ServiceSettings

    for name, field in ServiceSettings.model_fields.items():
        shown = "unset" if field.default is None else field.default
        shown = ", ".join(field.default) or "none" if isinstance(shown, tuple) else shown
        description = (field.description or "").replace("%", "%%")
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"{description} (default: {shown})",
        )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; requests in the process finish first."""
    from bpr.service.app import create_app, load_networks
    from bpr.service.logs import start_logging
    from bpr.service.server import listen, serve
    from bpr.service.settings import ServiceSettings, load_settings
    from bpr.service.tracing import start_tracing

    given = {k: v for k, v in vars(arguments).items() if k in ServiceSettings.model_fields}
    config: Path | None = arguments.config
    settings = load_settings(given, config)
    print("\n".join(settings.lines()), file=sys.stderr)
    if settings.ray_address is not None:
        require("ray", purpose="--ray-address")
        from bpr.service.deployment import serve_on_ray  # ray takes seconds to import

        serve_on_ray(settings)
        return 0
    with listen(settings.host, settings.port) as listener:
        app = create_app(settings, partial(load_networks, settings), start_tracing(settings))
        start_logging(settings.log_level)
        serve(app, listener, settings)
    return 0
