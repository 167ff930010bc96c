"""hwsearch: Pareto-optimal sparse sub-networks for the devices you care about."""

__version__ = "0.1.0"
