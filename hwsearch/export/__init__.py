"""Exporters: plain modules to files that inference runtimes open."""
