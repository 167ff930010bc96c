"""Data sets as frozen descriptions, opened where they are used."""
