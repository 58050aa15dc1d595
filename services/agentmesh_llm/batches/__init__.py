"""Many small requests about texts in few calls, each caller paying for its own."""
