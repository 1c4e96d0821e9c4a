// Pointer and keyboard.

// The query under a place of the picture: a near dot if all are shown, else the smallest box.
function queryAt(event) {
  const frame = $("stage").getBoundingClientRect();
  const at = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  if (checked("all")) {
    let [best, least] = [null, 14 * unit];
    data.boxes[0].forEach((_, query) => {
      const away = distance(placeAt(query, state.layer), at);
      if (away < least) [best, least] = [query, away];
    });
    if (best !== null) return best;
  }
  let [best, least] = [null, Infinity];
  for (const { query } of data.detections) {
    const place = placeAt(query, state.layer);
    const [x0, y0, x1, y1] = corners(place);
    const reach = place.length > 2 ? 4 * unit : 10 * unit;
    const [dx, dy] = [reach / width, reach / height];
    const inside = at[0] >= x0 - dx && at[0] <= x1 + dx && at[1] >= y0 - dy && at[1] <= y1 + dy;
    const area = (x1 - x0) * (y1 - y0);
    if (inside && area < least) [best, least] = [query, area];
  }
  return best;
}

function hover(event) {
  const query = queryAt(event);
  const tip = $("tip");
  tip.hidden = query === null;
  if (query !== null) {
    const box = pixels(placeAt(query, state.layer)).map(Math.round);
    const said = `${name(label(query, state.layer))} ${score(query, state.layer).toFixed(2)}`;
    const size = box.length > 2 ? `, ${box[2]} × ${box[3]} px` : "";
    tip.textContent = `query ${query}: ${said}\nat ${box[0]}, ${box[1]}${size}`;
    const frame = $("stage").getBoundingClientRect();
    const x = Math.min(event.clientX - frame.left + 14, frame.width - tip.offsetWidth - 4);
    tip.style.left = Math.max(0, x) + "px";
    const below = event.clientY - frame.top + 16;
    const above = event.clientY - frame.top - tip.offsetHeight - 10;
    tip.style.top = (below + tip.offsetHeight > frame.height && above > 0 ? above : below) + "px";
  }
  if (query !== state.hovered) {
    state.hovered = query;
    drawBoxes();
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target;
  const picking = target === $("stage") || target === $("list") || target === document.body;
  if (["INPUT", "SELECT", "BUTTON", "SUMMARY"].includes(target.tagName) && event.key.length > 1) return;
  if (!picking && event.key === " ") return;
  const keys = {
    ArrowLeft: () => setLayer(state.layer - 1),
    ArrowRight: () => setLayer(state.layer + 1),
    " ": play,
    a: () => setPart(cycle([...data.looks.parts, "none"], state.part)),
    h: () => setHead((state.head + 1) % (data.looks.heads + 1)),
    p: () => $("path").click(),
    q: () => $("all").click(),
  };
  if (picking) {
    keys.ArrowUp = () => step(-1);
    keys.ArrowDown = () => step(1);
    keys.Home = () => step(-data.detections.length);
    keys.End = () => step(data.detections.length);
  }
  if (!keys[event.key] || (target === document.body && /Up|Down|Home|End/.test(event.key))) return;
  event.preventDefault();
  keys[event.key]();
}

function setPart(part) {
  state.part = part;
  draw();
}

function setHead(head) {
  state.head = head;
  draw();
}
