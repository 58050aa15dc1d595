"""The agent that works on source code: findings from the syntax tree, words and code from a model."""
