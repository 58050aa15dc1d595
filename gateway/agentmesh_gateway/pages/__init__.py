"""The pages that the gateway serves to people: one file each, with everything in it."""
