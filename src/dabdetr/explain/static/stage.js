// Access to the data of queries, and drawing of boxes and attention. Boxes are cxcywh, 0–1.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const [height, width] = data.size;
const layers = data.boxes.length;
const own = data.boxes[0].length - data.questions; // the model's queries; questions come after them
const isQuestion = (query) => query >= own;
const first = data.anchors ? 0 : 1; // the slider's minimum: 0 shows the initial anchors

// Layer 0 is the start: the input anchor of layer 1. A point has two numbers.
const placeAt = (query, layer) => (layer ? data.boxes[layer - 1] : data.anchors[0])[query];
const enters = (query, layer) => (data.anchors && layer ? data.anchors[layer - 1][query] : null);
const label = (query, layer) => data.labels[Math.max(layer, 1) - 1][query][0];
const score = (query, layer) => data.scores[Math.max(layer, 1) - 1][query][0];
// A choice is a query and the index of its detection (null: none); a query may have two detections.
const choiceOf = (query) => {
  const at = data.detections.findIndex((d) => d.query === query);
  return { query, detection: at < 0 ? null : at };
};
const found = (choice) => data.detections[choice.detection]; // undefined: no detection
const classOf = (choice, layer) => found(choice)?.label ?? label(choice.query, layer);
const scoreOf = (choice, layer) =>
  found(choice)?.scores[Math.max(layer, 1) - 1] ?? score(choice.query, layer);
const name = (index) => data.names[index];
const percent = (value) => (value * 100).toFixed(value < 0.0995 ? 1 : 0) + " %";
const pixels = (box) => box.map((v, i) => v * (i % 2 ? height : width));

function corners(box) {
  const [x, y, w = 0, h = 0] = box;
  return [x - w / 2, y - h / 2, x + w / 2, y + h / 2];
}

function iou(a, b) {
  const [p, q] = [corners(a), corners(b)];
  const side = (k) => Math.max(0, Math.min(p[k + 2], q[k + 2]) - Math.max(p[k], q[k]));
  const shared = side(0) * side(1);
  const union = (a[2] || 0) * (a[3] || 0) + (b[2] || 0) * (b[3] || 0) - shared;
  return union > 0 ? shared / union : 0;
}

function distance(a, b) {
  return Math.hypot((a[0] - b[0]) * width, (a[1] - b[1]) * height);
}

// Drawing

const SVG = "http://www.w3.org/2000/svg";
let unit = 1; // image pixels in one pixel of the screen

function fitStage() {
  const stage = $("stage");
  const room = Math.max(stage.parentElement.clientWidth, 120); // 0 while the page is hidden
  const wanted = Math.min(room, Math.max(240, window.innerHeight * 0.66) * (width / height));
  stage.style.width = wanted + "px";
  stage.style.height = (stage.clientWidth * height) / width + "px";
  unit = width / stage.clientWidth;
}

function shape(parent, kind, attributes) {
  const element = document.createElementNS(SVG, kind);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

// A box, or a cross for a point; a dark line below gives contrast on any background.
function outline(parent, place, colour, size, more = {}) {
  const [x0, y0, x1, y1] = pixels(corners(place));
  const r = 7 * unit;
  const d =
    place.length > 2
      ? `M${x0} ${y0}H${x1}V${y1}H${x0}Z`
      : `M${x0 - r} ${y0}H${x0 + r}M${x0} ${y0 - r}V${y0 + r}`;
  const line = { d, fill: "none", "stroke-linejoin": "round", ...more };
  delete line.class;
  shape(parent, "path", { ...line, stroke: "#000c", "stroke-width": (size + 2) * unit });
  return shape(parent, "path", { ...line, ...more, stroke: colour, "stroke-width": size * unit });
}

function tag(parent, place, text, below = false) {
  const [x0, y0, , y1] = pixels(corners(place));
  const size = 13 * unit;
  const letters = text.length > 30 ? text.slice(0, 29) + "…" : text;
  const top = y0 > size * 1.5 ? y0 - 4 * unit : y0 + size * 1.1; // no room above: in the box
  const element = shape(parent, "text", {
    x: Math.max(2 * unit, Math.min(x0, width - letters.length * size * 0.56)),
    y: Math.min(below ? y1 + size * 1.1 : top, height - 4 * unit),
    "font-size": size, fill: "#fff", stroke: "#000", "stroke-width": 3.5 * unit,
  });
  element.textContent = letters;
}

// Attention

const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const COLOURS = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (STOPS.length - 1);
  const k = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[k].map((v, c) => Math.round(v + (STOPS[k + 1][c] - v) * (at - k)));
});

// The stored attention of a query, or null if the page lacks it or this part.
function keptOf(query, part) {
  const kept = data.attention.queries[query];
  return kept?.parts.includes(part) ? kept : null;
}

// The map of one layer, part and head (0: mean of heads) as { cells, top }.
function attentionMap(kept, layer, part, head) {
  kept.raw ??= Uint8Array.from(atob(kept.bytes), (c) => c.charCodeAt(0));
  const { shape } = data.attention;
  const row = (layer - 1) * kept.parts.length + kept.parts.indexOf(part);
  const block = row * (kept.heads + 1) + head;
  const count = shape[0] * shape[1];
  return { cells: kept.raw.subarray(block * count, (block + 1) * count), top: kept.tops[block] };
}

function drawMap(canvas, map) {
  const [rows, columns] = data.attention.shape;
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  const image = new ImageData(columns, rows);
  map.cells.forEach((value, i) => {
    image.data.set([...COLOURS[value], Math.min(215, value * 1.6)], i * 4);
  });
  small.getContext("2d").putImageData(image, 0, 0);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

const MARKS = ["#f0e442", "#56b4e9", "#ff9d3b", "#ffffff", "#cc79a7", "#9be564"];

function drawPlaces(canvas, kept, layer, part, head) {
  const [heads, levels, points] = data.attention.shape;
  const row = kept.rows[(layer - 1) * kept.parts.length + kept.parts.indexOf(part)];
  const pen = canvas.getContext("2d");
  const scale = canvas.width / canvas.clientWidth;
  pen.lineWidth = 1.5 * scale;
  pen.strokeStyle = "#000";
  for (let i = 0; i < heads * levels * points; i++) {
    if (head && Math.floor(i / (levels * points)) !== head - 1) continue;
    const [x, y, weight] = row.slice(3 * i, 3 * i + 3);
    const level = Math.floor(i / points) % levels;
    const r = (2 + 16 * Math.sqrt(weight)) * scale;
    pen.beginPath();
    mark(pen, level, x * canvas.width, y * canvas.height, r);
    pen.fillStyle = MARKS[level % MARKS.length];
    pen.globalAlpha = 0.85;
    pen.fill();
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

// One list item for each level: its mark and its number of cells.
function levelKey() {
  return data.attention.levels.map(([rows, columns], level) => {
    const item = document.createElement("li");
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 36;
    const pen = canvas.getContext("2d");
    pen.lineWidth = 2.5;
    pen.beginPath();
    mark(pen, level, 18, level % 4 === 2 ? 21 : 18, 11);
    pen.fillStyle = MARKS[level % MARKS.length];
    pen.fill();
    pen.stroke();
    item.append(canvas, `${columns} × ${rows} cells`);
    return item;
  });
}

// Levels differ in shape as well as colour: circle, square, triangle, diamond, repeated.
function mark(pen, level, x, y, r) {
  const corners = [0, 4, 3, 4][level % 4];
  if (!corners) return pen.arc(x, y, r, 0, 2 * Math.PI);
  const turn = [0, Math.PI / 4, -Math.PI / 2, 0][level % 4];
  for (let i = 0; i < corners; i++) {
    const angle = turn + (i * 2 * Math.PI) / corners;
    pen[i ? "lineTo" : "moveTo"](x + 1.2 * r * Math.cos(angle), y + 1.2 * r * Math.sin(angle));
  }
  pen.closePath();
}
