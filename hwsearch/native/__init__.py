"""Native code: a sub-network compiled ahead of time into one C library in which zeros are not computed."""
