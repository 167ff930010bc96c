"""Carrying work: serial or under Ray."""
