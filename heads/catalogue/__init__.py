"""The table of heads: names, builders, words of classes."""
