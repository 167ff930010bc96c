"""`python -m hwsearch`."""

from hwsearch.cli import main

main()
