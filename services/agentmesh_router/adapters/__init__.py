"""What the router reaches over the network: storage and runners."""
