"""Tests of what deploys and observes the mesh, with the real tools that read those files."""
