"""Programs that tests of the deployment need and PyPI hasn't: fetched from Debian packages, without root."""
