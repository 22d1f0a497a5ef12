"""How a command ended, besides 0 (success), 1 (error) and 2 (usage)."""

FAILED_ITEMS = 3  # finished, but some items failed
UNLIKE_ITEMS = 4  # finished, but more items than allowed are unlike the training items
INTERRUPTED = 130  # what was done is kept; 128 and its number for other signals
