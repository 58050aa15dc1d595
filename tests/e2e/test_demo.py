"""The demo, as a newcomer runs it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil


def test_the_demo_analyses_real_data_and_leaves_nothing_running(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTMESH_", "OPENAI_", "ANTHROPIC_"))}
    done = subprocess.run(
        [sys.executable, "-m", "agentmesh", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "# Analysis of seattle-weather.csv" in done.stdout
    assert "1461 rows" in done.stdout
    (folder,) = (tmp_path / "agentmesh-output" / "demo").iterdir()
    assert (folder / "report.md").stat().st_size > 2000
    charts = list(folder.glob("*.png"))
    assert len(charts) >= 3
    assert all(chart.read_bytes().startswith(b"\x89PNG") for chart in charts)
    left = [
        p for p in psutil.process_iter(["cmdline"]) if p.pid not in before and "agentmesh" in str(p.info["cmdline"])
    ]
    ours = [p for p in left if str(tmp_path) in str(p.info["cmdline"])]
    assert ours == []
