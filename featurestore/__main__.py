"""``python -m featurestore``: the command line, where its script is not on the path."""

from featurestore.cli import main

main()
