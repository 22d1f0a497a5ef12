"""One page that anybody can open: what was found in a data set, and how to find it again."""
