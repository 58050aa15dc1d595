"""The agent that writes texts under constraints, and checks each of them."""
