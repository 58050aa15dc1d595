"""What became of each call to a provider, for the books, the metrics and the traces."""
