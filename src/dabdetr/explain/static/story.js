// What is said of the picked query: the line below the picture, its story, its numbers.

function caption(map) {
  const { picked: query, layer, part, head } = state;
  const together = data.looks.kind === "maps" ? "mean of all heads" : "all heads";
  const whose = head ? `head ${head}` : together;
  let text = "";
  if (layer < 1) text = "Before the first layer a query has its anchor only; attention begins with layer 1.";
  else if (!data.looks.queries[query]) {
    text = "Attention is kept for the best queries only; this one has boxes and numbers alone.";
  } else if (data.looks.kind === "places" && part !== "none") {
    const forms = ["circle", "square", "triangle", "diamond"].slice(0, data.looks.shape[1]);
    text = `Places that query ${query} reads in layer ${layer}, ${whose}: larger marks weigh more; `;
    text += `levels from fine to coarse: ${forms.join(", ")}.`;
  } else if (map) {
    text = `Query ${query}, layer ${layer}, ${whose}: `;
    text += {
      all: "where it looks.",
      content: "where content alone would look.",
      position: "where position alone would look.",
      unsized: "where position would look if the anchor's width and height did not count.",
    }[part];
    const ref = data.references && data.references[layer - 1][query];
    if (ref && (part === "position" || part === "unsized")) {
      const anchor = pixels(enters(query, layer)).map(Math.round);
      const wish = pixels(ref).map(Math.round);
      text += ` The anchor is ${anchor[2]} × ${anchor[3]} px, content asks for ${wish[0]} × ${wish[1]} px.`;
    }
  }
  $("caption").textContent = text;
}

function tell() {
  const query = state.picked;
  const found = detectionOf(query);
  const end = placeAt(query, layers);
  const last = found ? found.label : label(query, layers);
  const listed = found && data.found;
  $("story-title").textContent =
    `${name(last)}, score ${score(query, layers).toFixed(2)}, query ${query}` +
    (listed ? "" : " (no detection)");
  const parts = [];
  if (data.anchors) {
    const start = distance(placeAt(query, 0), end);
    parts.push(`Its anchor started ${start.toFixed(0)} px from where the box ended.`);
    const left = distance(placeAt(query, 1), end);
    if (start > 2 && layers > 1) parts.push(`After the first layer ${left.toFixed(0)} px were left.`);
  }
  let since = layers;
  while (since > 1 && label(query, since - 1) === last) since--;
  parts.push(`Its class is “${name(last)}” from layer ${since} on.`);
  $("story").textContent = parts.join(" ");
  tabulate(query, end);
}

function tabulate(query, end) {
  const truth = data.truth && nearestTruth(end);
  const titles = ["layer", "score", "class", "x", "y", "w", "h", "moved", "IoU¹"];
  if (truth) titles.push("IoU²");
  const table = $("numbers");
  table.tHead.replaceChildren(cells("th", titles));
  const rows = [];
  for (let k = first; k <= layers; k++) {
    const box = placeAt(query, k);
    const [x, y, w, h] = pixels(box).map((v) => v.toFixed(0));
    const before = k > first ? distance(box, placeAt(query, k - 1)).toFixed(0) : "";
    const values = [k || "start", k ? score(query, k).toFixed(2) : "", k ? name(label(query, k)) : ""];
    values.push(x, y, w ?? "", h ?? "", before, w ? iou(box, end).toFixed(2) : "");
    if (truth) values.push(w ? iou(box, truth.box).toFixed(2) : "");
    const row = cells("td", values);
    row.children[2].className = "name";
    row.children[2].title = values[2];
    row.dataset.layer = k;
    row.addEventListener("click", () => setLayer(k));
    rows.push(row);
  }
  table.tBodies[0].replaceChildren(...rows);
  $("legend").textContent =
    "x, y, w, h and the way moved in pixels. ¹ with the last box" + (truth ? " ² with the truth" : "");
}

function cells(kind, values) {
  const row = document.createElement("tr");
  for (const value of values) {
    const cell = document.createElement(kind);
    cell.textContent = value;
    row.append(cell);
  }
  return row;
}

function nearestTruth(box) {
  return data.truth.reduce((best, t) => (!best || iou(t.box, box) > iou(best.box, box) ? t : best), null);
}
