"""How good a head is and how sure that is: metrics, intervals, comparisons."""
