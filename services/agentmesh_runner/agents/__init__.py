"""The agents that ship with the mesh."""
