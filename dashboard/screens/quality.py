"""What may be wrong with the data, item by item, and what people decide: by mouse or by key."""

from uuid import uuid4

import streamlit as st

from dashboard import caches, jobs, url_state, widgets
from dashboard.gallery import gallery
from dashboard.page_data import item_rows, wording
from dashboard.page_data import quality as shown
from featurestore.curation.reviews import (
    NO_LABEL,
    Action,
    Review,
    add_reviews,
    contested_sentences,
    decisions_on,
    read_reviews,
    user_name,
)
from featurestore.errors import FeatureStoreError
from featurestore.terms.specs import encoder_label
from heads.quality.issues import TITLES, Kind

dataset = caches.dataset()
jobs.offer(dataset, "quality", is_first=not caches.quality_reports(dataset))
left, right = st.columns([3, 2])
with left:
    report = widgets.choose_run(
        dataset, caches.quality_reports(dataset), "Report", key="report", show=shown.report_title,
        none="Nobody has looked for issues yet. Press the button above, or run:",
        words=("quality", dataset.name, "-e", "ENCODER"),
    )  # fmt: skip
chosen = str(report.card["created"])
with right:
    kinds = [str(kind) for kind in Kind]
    most = max(kinds, key=lambda kind: (report.found.get(kind, 0) > 0, -kinds.index(kind)))
    kind = url_state.select(
        "Kind",
        kinds,
        key="kind",
        default=most,
        show=lambda one: f"{TITLES[Kind(one)]}: {report.found.get(one, 0):,}",
    )
for note in report.notes:
    st.caption(wording.plain(note))

label = report.label or next(iter(dataset.label_columns), NO_LABEL)
reviews = read_reviews(dataset.folder)
decided = decisions_on(reviews, label)
issues = report.of(kind)
skipped = st.session_state.setdefault("skipped", {}).setdefault(f"{chosen} {kind}", [])
known = caches.known_ids(dataset)
queue = shown.queue(issues, decided, skipped, known)
classes = sorted(report.counts)


def decide(item: str, action: Action, value: str | None = None) -> None:
    """Keep a decision; what goes wrong is said on the next run."""
    who = st.session_state.get("reviewer") or None
    try:
        add_reviews(dataset.folder, [Review(item, action, label, value)], who=who)
    except FeatureStoreError as error:
        st.session_state["review error"] = str(error)
    go_on()


def go_on() -> None:
    """Turn to the next item."""
    url_state.remember("at", None)
    url_state.remember("item", None)


def decide_clusters(members: list[list[str]]) -> None:
    """Keep the first of each cluster, and mark its twins as duplicates, as one decision."""
    who = st.session_state.get("reviewer") or None
    made = shown.duplicates(members, label, f"{shown.TOGETHER}{uuid4().hex[:8]}")
    try:
        add_reviews(dataset.folder, made, who=who)
    except FeatureStoreError as error:
        st.session_state["review error"] = str(error)
    go_on()


def take_back() -> None:
    """Undo this person's latest decision, of a whole cluster at once."""
    who = st.session_state.get("reviewer") or user_name()
    own = shown.to_take_back(decided, who)
    lines = [Review(one.item_id, Action.UNDO, one.label, one.id) for one in own]
    try:
        add_reviews(dataset.folder, lines, who=who)
        if own:
            url_state.remember("at", own[-1].item_id)
    except FeatureStoreError as error:  # someone else was here
        st.session_state["review error"] = str(error)


def named() -> None:
    """Keep the reviewer's name: the box forgets it when the page is left."""
    st.session_state["reviewer"] = st.session_state["who"]


def later(item: str) -> None:
    """Put an item off until all others were looked at."""
    if item in skipped:
        skipped.remove(item)
    skipped.append(item)
    go_on()


view = next((one for one in dataset.views() if str(one.spec) == report.encoder), None)
if view is not None and issues:
    widgets.offer_selection_actions(
        view.now(),
        [one.item_id for one in issues if one.item_id in known],
        origin={"page": "quality", "report": chosen, "kind": kind},
        extra=shown.issue_table(issues),
        key="issues",
    )
if error := st.session_state.pop("review error", None):
    st.error(wording.plain(error))
twins = shown.clusters(issues, decided, known) if kind in (Kind.DUPLICATE, Kind.LEAK) else []
if twins:
    n_copies = sum(map(len, twins)) - len(twins)
    st.button(
        f"Keep one of each of {len(twins):,} clusters, mark {n_copies:,} duplicates",
        on_click=decide_clusters, args=(twins,), icon=":material/content_copy:", key="all clusters",
        help="The first by name is kept. One press of Undo takes all of it back.",
    )  # fmt: skip
n_decided = len({one.item_id for one in issues} & set(decided))
st.progress(n_decided / max(1, len(issues)), f"{n_decided:,} of {len(issues):,} decided")
wanted = url_state.recall("at")  # in the address: the item that is looked at
current = next((one for one in issues if one.item_id == wanted and wanted in known), None)
current = current or (queue[0] if queue else None)
if current is None:
    st.success("Nothing of this kind is left to decide.")
else:
    item = current.item_id
    url_state.remember("at", item)
    here = [one for one in current.others if one in known]
    about, beside = st.columns([2, 3], gap="large")
    with about:
        widgets.draw_item(dataset, item, key="item card")
        st.markdown(wording.plain(current.reason[:1].upper() + current.reason[1:] + "."))
        if said := shown.decision_words(decided.get(item)):
            st.info(wording.plain(f"Already {said}."))
        first, second = st.columns(2)
        # A button of its own for each item: a key that comes before the next one is drawn must
        # not decide it unseen.
        if label != NO_LABEL:
            first.button(
                "Label is right", shortcut="y", on_click=decide, args=(item, Action.CONFIRM),
                key=f"confirm {item}", width="stretch",
            )  # fmt: skip
        if current.suggested:
            second.button(
                wording.plain(f"It is {current.suggested}"), shortcut="s", on_click=decide,
                args=(item, Action.RELABEL, current.suggested), width="stretch", type="primary",
                key=f"suggested {item}",
            )  # fmt: skip
        if current.kind in (Kind.DUPLICATE, Kind.LEAK) and here:
            second.button(
                "A duplicate", shortcut="d", on_click=decide,
                args=(item, Action.DUPLICATE, here[0]), key=f"duplicate {item}", width="stretch",
            )  # fmt: skip
        whole = next((one for one in twins if item in one), [])
        if len(whole) > 2:
            rest = [one for one in whole if one != item]
            second.button(
                f"Keep this, its {len(rest):,} twins are duplicates", shortcut="a",
                on_click=decide_clusters, args=([[item, *rest]],), key=f"cluster {item}",
                width="stretch",
            )  # fmt: skip
        first.button(
            "Exclude", shortcut="x", on_click=decide, args=(item, Action.EXCLUDE),
            key=f"exclude {item}", width="stretch",
        )  # fmt: skip
        second.button(
            "Later", shortcut="n", on_click=later, args=(item,), key=f"later {item}",
            width="stretch",
        )  # fmt: skip
        if classes and label != NO_LABEL:
            other = st.selectbox("Another class", classes, index=None, key=f"other {item}")
            if other:
                st.button(
                    wording.plain(f"Relabel {other}"), on_click=decide,
                    args=(item, Action.RELABEL, other),
                )  # fmt: skip
    with beside:
        words = "Its twins" if current.kind in (Kind.DUPLICATE, Kind.LEAK) else "Its neighbors"
        st.markdown(f"**{words}** · by {wording.plain(encoder_label(report.encoder))}")
        if current.kind in (Kind.DUPLICATE, Kind.LEAK):
            st.caption(wording.plain(" · ".join(here[: widgets.PAGE_ITEMS])))
        rows = item_rows.rows_of(caches.items(dataset), here[: widgets.PAGE_ITEMS])
        gallery(caches.cards(dataset, rows), name=words, key="others", on_click=widgets.choose_item)
        looked_at = url_state.recall("item")
        if view is not None and looked_at in known and looked_at != item:
            widgets.draw_neighbors(view.now(), looked_at, key=" looked at")

st.button("Undo my last", shortcut="u", on_click=take_back, disabled=not decided)
st.text_input(
    "Your name, kept with each decision",
    key="who",
    value=st.session_state.get("reviewer", ""),
    placeholder=user_name(),
    on_change=named,
)
if reviews:
    st.subheader("Decisions")
    for line in contested_sentences(reviews):
        st.warning(wording.plain(line))
    st.dataframe(
        shown.history_rows(reviews),
        hide_index=True,
        column_config={
            "when": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", timezone="UTC"),
            "stands": st.column_config.CheckboxColumn(help="The latest that was not undone"),
        },
    )
    st.caption("Heads learn from them when asked:")
    url_state.show_command(dataset.store, "train", dataset.name, "--apply-reviews")
