// Pointer and keyboard.

const NEAR = 14; // screen pixels within which a click selects a query's centre

// The choice that a click would select: the smallest of the detections' boxes there, and after a
// click at the same place the next larger one; outside of them, or with Shift, the nearest query.
function choiceAt(event) {
  const frame = $("stage").getBoundingClientRect();
  const at = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  const inside = event.shiftKey ? [] : boxesAt(at);
  if (!inside.length) return nearest(at);
  const [x, y] = state.clicked ?? [NaN, NaN];
  const again = Math.hypot(event.clientX - x, event.clientY - y) <= 4;
  return inside[again ? (inside.findIndex((c) => c.detection === state.picked.detection) + 1) % inside.length : 0];
}

// Detections whose boxes contain a place of the image, the smallest first; else those within 4 px.
function boxesAt(at) {
  const area = ({ query }) => {
    const [, , w = 0, h = 0] = placeAt(query, state.layer);
    return w * h;
  };
  const containing = (reach) =>
    data.detections
      .map(({ query }, detection) => ({ query, detection }))
      .filter(({ query }) => {
        const [x0, y0, x1, y1] = corners(placeAt(query, state.layer));
        const [dx, dy] = [(reach * unit) / width, (reach * unit) / height];
        return at[0] >= x0 - dx && at[0] <= x1 + dx && at[1] >= y0 - dy && at[1] <= y1 + dy;
      })
      .sort((a, b) => area(a) - area(b));
  const exact = containing(0);
  return exact.length ? exact : containing(4);
}

function nearest(at) {
  let [best, least] = [null, NEAR * unit];
  data.boxes[0].slice(0, own).forEach((_, query) => {
    const away = distance(placeAt(query, state.layer), at);
    if (away < least) [best, least] = [query, away];
  });
  return best === null ? null : choiceOf(best);
}

// Questions: with "Ask" on, a click or a drawn box selects the nearest question of the grid.

const LEAST = 6; // the smallest side of a drawn box in screen pixels; less is a click
let drag = null; // the first corner of the box being drawn, 0–1

function placeOf(event) {
  const frame = $("stage").getBoundingClientRect();
  const inside = (v) => Math.max(0, Math.min(1, v));
  return [inside((event.clientX - frame.left) / frame.width), inside((event.clientY - frame.top) / frame.height)];
}

function beginBox(event) {
  if (!checked("ask") || event.button) return;
  drag = placeOf(event);
  $("stage").setPointerCapture(event.pointerId);
}

// The drawing so far: a box cxcywh, or x, y if it is too small.
function drawn(event) {
  const [a, b] = [drag, placeOf(event)];
  const [w, h] = [Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1])];
  const small = Math.min((w * width) / unit, (h * height) / unit) < LEAST;
  return small ? b : [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2, w, h];
}

function dragBox(event) {
  if (!drag) return;
  drawBoxes();
  outline($("boxes"), drawn(event), "#f0e442", 2, { class: "asked" });
}

function endBox(event) {
  if (!drag) return;
  state.asked = drawn(event);
  drag = null;
  pick({ query: nearestQuestion(state.asked), detection: null });
}

// For a box, the question that overlaps it most. For a click, one at the nearest place of the grid:
// first those whose answer contains the click, then by score, as in `Predictor.ask`.
function nearestQuestion(asked) {
  const all = Array.from({ length: data.questions }, (_, i) => own + i);
  const away = (query) => distance(placeAt(query, 0), asked);
  if (asked.length > 2) {
    const overlap = (query) => iou(placeAt(query, 0), asked);
    return all.reduce((a, b) => (overlap(b) - overlap(a) || away(a) - away(b)) > 0 ? b : a);
  }
  const holds = (query) => {
    const [x0, y0, x1, y1] = corners(placeAt(query, layers));
    return x0 <= asked[0] && asked[0] <= x1 && y0 <= asked[1] && asked[1] <= y1;
  };
  // Boxes at the border are clipped, which moves their centres: the four nearest places count.
  const near = all.sort((a, b) => away(a) - away(b)).slice(0, 16);
  return near.reduce((a, b) => (holds(b) - holds(a) || score(b, layers) - score(a, layers)) > 0 ? b : a);
}

function hover(event) {
  if (checked("ask")) {
    $("tip").hidden = true;
    state.hovered = null;
    return;
  }
  const choice = choiceAt(event);
  const tip = $("tip");
  tip.hidden = !choice;
  if (choice) {
    const box = pixels(placeAt(choice.query, state.layer)).map(Math.round);
    const size = box.length > 2 ? `, ${box[2]} × ${box[3]} px` : "";
    const kind = found(choice) ? "" : " (no detection)";
    tip.textContent =
      `query ${choice.query}: ${said(choice, state.layer)}${kind}\ncentre ${box[0]}, ${box[1]}${size}`;
    const frame = $("stage").getBoundingClientRect();
    const x = Math.min(event.clientX - frame.left + 14, frame.width - tip.offsetWidth - 4);
    tip.style.left = Math.max(0, x) + "px";
    const below = event.clientY - frame.top + 16;
    const above = event.clientY - frame.top - tip.offsetHeight - 10;
    tip.style.top = (below + tip.offsetHeight > frame.height && above > 0 ? above : below) + "px";
  }
  if (choice?.query !== state.hovered?.query) {
    state.hovered = choice;
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
    a: () => setPart(cycle([...data.attention.parts, "none"], state.part)),
    h: () => headsOf(state.picked.query) && setHead((state.head + 1) % (data.attention.heads + 1)),
    p: () => $("path").click(),
    q: () => $("all").click(),
    k: () => data.questions && $("ask").click(),
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
