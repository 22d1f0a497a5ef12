"""The loop of labels: the next item, a key for each class, the score as it grows."""

import streamlit as st

from dashboard import background, caches, url_state, widgets
from dashboard.page_data import item_rows, labeling, wording
from dashboard.page_data.labeling import DISAGREEMENT, STRATEGIES
from featurestore.curation.reviews import (
    Action,
    Review,
    add_reviews,
    decisions_on,
    read_reviews,
    undo,
    user_name,
)
from featurestore.errors import FeatureStoreError
from featurestore.terms.specs import Modality, encoder_label
from heads.experiments.suggest import AUTO

RETRAIN_EVERY = 5  # labels
PICTURE_PX = 512

dataset = caches.dataset()
boxes = st.columns([2, 3, 3, 2])
with boxes[1]:
    view = widgets.choose_encoder(dataset)
tasks = {name: facts["task"] for name, facts in dataset.description.labels.items()}
columns = [name for name in dataset.label_columns if tasks[name] == "multiclass"]
new_classes = st.session_state.setdefault("new classes", {})
if not columns:
    with st.form("first label"):
        st.markdown("This data set has no label of one class an item yet.")
        name = st.text_input("Name of the label", "label")
        typed = st.text_area("Classes, one a line", placeholder="cat\ndog")
        if st.form_submit_button("Start labeling", type="primary"):
            try:
                made = labeling.start_column(dataset, name, typed.splitlines())
                new_classes[dataset.name, name.strip()] = made
                st.rerun()
            except FeatureStoreError as error:
                url_state.show(error)
    st.stop()
with boxes[0]:
    label = url_state.select("Label", columns, key="label")
others = [one for one in dataset.views() if one.spec != view.spec]
with boxes[2]:
    strategies = [one for one in STRATEGIES if one != DISAGREEMENT or others]
    strategy = url_state.select(
        "Which item comes next", strategies, key="strategy", default=AUTO,
        show=lambda one: STRATEGIES[one],
    )  # fmt: skip
with boxes[3]:
    who = st.text_input(
        "Your name", st.session_state.get("reviewer", ""), key="who", placeholder=user_name()
    )
    st.session_state["reviewer"] = who
who = who or user_name()
other = None
if strategy == DISAGREEMENT:
    specs = [str(one.spec) for one in others]
    beside = url_state.select("Second encoder", specs, key="beside", show=encoder_label)
    other = caches.label_base(dataset.view(beside).now(), label)

base = caches.label_base(view, label)
reviews = read_reviews(dataset.folder)
labels = labeling.labels_of(base, reviews, label, new_classes.get((dataset.name, label), ()))
if not labels.is_open.any() and not labels.turns:
    st.success("Every item has a label. Whether they are right is looked at on the page Quality.")
    st.stop()
here = (str(dataset.path), str(view.spec), label, strategy)
skipped = st.session_state.setdefault("put off", {}).setdefault(here, [])
kept = st.session_state.setdefault("labeling", {}).setdefault(here, background.Kept())
about = (view.state, len(reviews))
decided = decisions_on(reviews, label)


def learn() -> None:
    """Let a head learn from the labels as they are, beside the page."""
    kept.ask(about, lambda: labeling.train(labels, strategy, other=other))


def decide(item: str, action: Action, value: str | None = None) -> None:
    """Keep a decision, with who and when."""
    try:
        add_reviews(dataset.folder, [Review(item, action, label, value)], who=who)
    except FeatureStoreError as error:
        st.session_state["label error"] = str(error)


def take_back() -> None:
    """Undo this person's latest decision, and ask for that item again."""
    own = sorted((one for one in decided.values() if one.who == who), key=lambda one: one.when)
    try:
        if own:
            undo(dataset.folder, own[-1].id, who=who)
            st.session_state["asked again"] = own[-1].item_id
    except FeatureStoreError as error:
        st.session_state["label error"] = str(error)


def keep(given: dict[str, str]) -> None:
    """Write labels into the data set."""
    try:
        labeling.keep(dataset, label, given)
    except FeatureStoreError as error:
        st.session_state["label error"] = str(error)


def later(item: str) -> None:
    """Put an item off."""
    skipped.append(item)


try:
    kept.take()
    if kept.result is None:
        with st.spinner("Choosing what to label first…"):
            learn()
            kept.take(wait=True)
    left = labeling.without(kept.result, decided, skipped)
    fresh = [one for one in left.questions if one.item_id not in skipped]
    if not fresh and kept.of != about:
        with st.spinner("A head learns from the new labels…"):
            learn()
            kept.take(wait=True)
            if kept.of != about:  # of labels before these
                learn()
                kept.take(wait=True)
        left = labeling.without(kept.result, decided, skipped)
    elif len(labels.turns) - kept.result.n_given >= RETRAIN_EVERY:
        learn()
except FeatureStoreError as error:
    url_state.show(error)
    st.stop()
if said := st.session_state.pop("label error", None):
    st.error(wording.plain(said))
question = left.questions[0] if left.questions else None
again = st.session_state.pop("asked again", None)
if again is not None:
    question = labeling.Question(again, "taken back")

asked, score = st.columns([3, 2], gap="large")
with asked:
    if question is None:
        st.success("Every item has a label.")
    else:
        item = question.item_id
        [row] = item_rows.rows_of(caches.items(dataset), [item])
        with st.container(height=420, border=True, horizontal_alignment="center",
                          vertical_alignment="center"):  # fmt: skip
            if dataset.modality == Modality.IMAGE:
                try:
                    st.image(dataset.thumbnail(item, size_px=PICTURE_PX), width=380)
                except FeatureStoreError as error:
                    url_state.show(error)
            else:
                st.markdown(f"##### {wording.plain(row['text'] or '')}")
        st.caption(wording.plain(f"{item} · {question.why}"))
        keys = labeling.keyed(labels.classes, question)
        buttons = st.columns(min(3, max(1, len(keys))))
        for place, (key, name) in enumerate(keys):
            # A button of its own for each item: a key that comes before the next one is drawn
            # must not decide it unseen.
            buttons[place % len(buttons)].button(
                wording.plain(name), shortcut=key, on_click=decide, width="stretch",
                args=(item, Action.RELABEL, name), key=f"class {name} {item}",
            )  # fmt: skip
        if len(labels.classes) > len(keys):
            chosen = st.selectbox("Another class", labels.classes, index=None, key=f"other {item}")
            if chosen:
                st.button(
                    wording.plain(f"It is {chosen}"), on_click=decide, key=f"chosen {item}",
                    args=(item, Action.RELABEL, chosen), type="primary",
                )  # fmt: skip
        first, second, third = st.columns(3)
        first.button("Put it off", shortcut="n", on_click=later, args=(item,), width="stretch",
                     key=f"later {item}")  # fmt: skip
        second.button("Exclude it", shortcut="x", on_click=decide, width="stretch",
                      args=(item, Action.EXCLUDE), key=f"exclude {item}")  # fmt: skip
        third.button("Undo my last", shortcut="u", on_click=take_back, width="stretch",
                     disabled=not any(one.who == who for one in decided.values()))  # fmt: skip
        with st.popover("Add a class"):
            new = st.text_input("Name of the class", key="new class").strip()
            if st.button("Add", disabled=not new or new in labels.classes):
                known = new_classes.get((dataset.name, label), ())
                new_classes[dataset.name, label] = (*known, new)
                st.rerun()


@st.fragment(run_every="1s" if kept.is_busy else None)
def draw_score() -> None:
    """Show the score; while a head learns, look again and again."""
    was_busy = kept.is_busy
    kept.take()
    if was_busy and not kept.is_busy:
        st.rerun()
    found = kept.result
    n_open = int(labels.is_open.sum())
    mine = sum(one.who == who and one.action is Action.RELABEL for one in decided.values())
    st.markdown(
        f"**{len(labels.turns):,} labels given here** ({mine:,} by you) · {n_open:,} items open"
    )
    if found.points:
        last = found.points[-1]
        st.metric(
            f"Right on {found.n_tested:,} held-out items", f"{100 * last.right:.1f} %",
            help="95 % interval: "
            f"{100 * last.low:.1f} to {100 * last.high:.1f}. These items never teach.",
        )  # fmt: skip
        st.plotly_chart(labeling.curve_figure(found.points), alt="Score over the number of labels")
    if n_open:
        st.markdown(wording.plain(labeling.stop_sentence(found)))
    if kept.is_busy:
        st.caption("A head learns from the new labels…")
    elif found.n_given < len(labels.turns):
        n = RETRAIN_EVERY - (len(labels.turns) - found.n_given)
        st.caption(f"It learns again after {max(1, n)} more.")


with score:
    draw_score()
    if given := labeling.to_keep(labels):
        st.button(
            f"Make {len(given):,} labels those of the data set", icon=":material/save:",
            on_click=keep, args=(given,),
            help="Heads then learn from them and are tested on them. Who gave each label, and "
            "when, stays in the reviews.",
        )  # fmt: skip
    elif len(labels.turns):
        st.caption("All labels are the data set's own. Train a head on them:")
        st.page_link("screens/heads.py", label="Leaderboard", icon=":material/leaderboard:")
