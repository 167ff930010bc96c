"""Results of other systems, as populations and metrics."""
