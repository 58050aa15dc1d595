"""Measures what `performance.md` of the design promises, as ratios to raw gRPC in the same run: `make bench`."""
