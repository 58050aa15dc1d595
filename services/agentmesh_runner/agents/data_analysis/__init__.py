"""The agent that analyses a table: statistics computed here, words written by a model."""
