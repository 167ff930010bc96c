"""Latency and accuracy predictors: populations in, mean and standard deviation out."""
