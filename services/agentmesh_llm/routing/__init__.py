"""Which provider is asked, how many calls it takes, and where to go when it fails."""
