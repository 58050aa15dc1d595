"""The llm service: language models behind one typed door."""
