"""Money: what models cost, who used how much, which keys there are, and who may have how much more."""
