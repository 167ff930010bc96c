"""Training super-networks and chosen subnets."""
