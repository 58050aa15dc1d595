"""What every service of the mesh stands on: configuration, errors, servers, channels, health, telemetry."""
