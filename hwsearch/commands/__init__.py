"""What the command line does, as plain functions: they return data and print nothing."""
