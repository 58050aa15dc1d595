"""Lets `python -m agentmesh` be the `agentmesh` command."""

from agentmesh.cli.main import main

if __name__ == "__main__":
    main()
