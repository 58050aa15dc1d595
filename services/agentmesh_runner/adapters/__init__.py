"""What the runner reaches: models, artifacts, host processes."""
