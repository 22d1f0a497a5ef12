"""Words that several rooms say."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "item"), counted(2000, "item")
    ('1 item', '2,000 items')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def in_bytes(n: int) -> str:
    """Return a number of bytes as people say it.

    >>> in_bytes(37_712), in_bytes(30_169_600), in_bytes(3_900_000_000)
    ('38 KB', '30 MB', '3.9 GB')
    """
    unit = next((one for one in (12, 9, 6) if n >= 0.9995 * 10**one), 3)
    value = n / 10**unit
    letter = {3: "K", 6: "M", 9: "G", 12: "T"}[unit]
    return f"{value:,.{0 if value >= 9.95 else 1}f} {letter}B"


def in_time(seconds: float) -> str:
    """Write a time that is not known better than by a tenth.

    >>> in_time(4.2), in_time(43), in_time(400), in_time(9000)
    ('4 s', '45 s', '7 min', '2.5 h')
    """
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 100:
        return f"{5 * round(seconds / 5)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
