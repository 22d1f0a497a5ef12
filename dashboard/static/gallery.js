// Cards become buttons. Values are set as text and attributes, never parsed as HTML.
export default function ({ data, parentElement, setTriggerValue }) {
  const focused = parentElement.activeElement?.dataset.id;
  const grid = element("div", "grid");
  grid.setAttribute("role", "group");
  grid.setAttribute("aria-label", data.name);
  for (const card of data.cards) {
    const button = element("button", "card");
    button.dataset.id = card.id;
    button.title = card.text ? `${card.id}: ${card.text}` : card.id; // cards cut long texts
    button.setAttribute("aria-pressed", String(card.id === data.selected));
    button.append(content(card), caption(card));
    button.onclick = () => setTriggerValue("clicked", card.id);
    grid.append(button);
  }
  parentElement.querySelector(".grid")?.remove();
  parentElement.append(grid);
  if (focused) grid.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
}

function content(card) {
  if (!card.image) return element("div", "text", card.text ?? `no picture: ${card.reason}`);
  const image = element("img");
  image.src = card.image;
  image.alt = card.id;
  return image;
}

function caption(card) {
  const line = element("div", "caption");
  const dot = element("span", "dot");
  dot.style.background = card.color;
  line.append(dot, element("span", "label", card.label));
  if (card.score) line.append(element("span", "score", card.score));
  return line;
}

function element(tag, name = "", text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}
