"""Search problems whose answers are known: result tables, stand-in predictors, and a synthetic space."""
