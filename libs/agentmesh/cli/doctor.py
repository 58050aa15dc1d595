"""`agentmesh doctor`: looks for what could be wrong, and says what to do about it."""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from agentmesh.cli import checks_here, checks_services, failures
from agentmesh.cli.checks_here import Check
from agentmesh.cli.settings_options import load_settings, settings_options
from agentmesh.kit.config import ConfigError

_MARKS = {"ok": "ok  ", "note": "note", "failed": "FAIL"}


@click.command()
@settings_options
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
def doctor(config_file: Path | None, data_dir: Path | None, first_port: int | None, as_json: bool) -> None:
    """Check this machine, the configuration and the mesh; exit with 1 if something fails."""
    checks = checks_here.of_installation()
    try:
        settings = load_settings(config_file, data_dir, first_port)
    except ConfigError as error:
        checks += [
            Check("configuration", "failed", line, "correct it; see `agentmesh config schema`") for line in error.errors
        ]
    else:
        checks.append(Check("configuration", "ok", f"environment {settings.environment}"))
        checks += checks_here.of_data_folder(settings)
        checks += asyncio.run(checks_services.of_mesh(settings))
    failed = any(check.status == "failed" for check in checks)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, ensure_ascii=False))
    else:
        for check in checks:
            print(f"{_MARKS[check.status]}  {check.name}: {check.detail}")
            if check.advice:
                print(f"      {check.advice}")
    sys.exit(failures.FAILED if failed else failures.COMPLETED)
