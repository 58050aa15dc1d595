"""One file per kind of provider, imported only where that kind is configured."""
