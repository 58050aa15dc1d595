"""The router starts fast and small: it loads none of what only other services need."""

import subprocess
import sys

FORBIDDEN = ("pandas", "matplotlib", "openai", "anthropic", "redis", "asyncpg")


def test_the_router_loads_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, agentmesh_router.app; print('\\n'.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(ran.stdout.split())
    assert "agentmesh_router" in loaded
    assert loaded.isdisjoint(FORBIDDEN)
