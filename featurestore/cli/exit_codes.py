"""How a command ended, besides 0 (success), 1 (error) and 2 (usage)."""

FAILED_ITEMS = 3  # finished, but some items failed
UNLIKE_ITEMS = 4  # finished, but more items than allowed are unlike the training items
DRIFTED = 5  # finished: what came in differs from the training items
TOO_FEW_ITEMS = 6  # finished: too few items to tell whether there is drift
INTERRUPTED = 130  # what was done is kept; 128 and its number for other signals
