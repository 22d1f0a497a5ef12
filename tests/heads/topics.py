"""Texts of two topics that any encoder tells apart."""

WORDS = {
    "food": "bread cheese soup pasta rice cake fish egg",
    "music": "piano guitar song drum violin",
}


def two_topics(n=60, **columns):
    """Return n rows of two topics, a quarter of which test: one fit a row of the table.

    Columns are functions of the row's number and topic.
    """
    rows = []
    for i in range(n):
        topic = list(WORDS)[i % 2]
        words = WORDS[topic].split()
        text = f"the {words[i // 2 % len(words)]} and the {words[(i + 1) % len(words)]} {i}"
        split = "test" if i % 8 < 2 else "train"
        more = {name: make(i, topic) for name, make in columns.items()}
        rows.append({"text": text, "topic": topic, "split": split, **more})
    return rows
