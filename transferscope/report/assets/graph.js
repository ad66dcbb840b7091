// The task graph: tasks can be dragged, the whole moved and zoomed, arrows hidden below a least value.

const STEPS = 200;
const net = {
  places: [], // in [-1, 1], whatever the size of the picture
  width: 1000, // pixels of the window
  height: 600,
  view: { x: 0, y: 0, zoom: 1 }, // the shift in pixels
  edges: [],
  values: [],
  chosen: null,
  nodes: [],
  lines: [],
  scene: null,
};

function startGraph() {
  const measure = byId("net-measure");
  if (!measure) return;
  measureChoices(measure, "0");
  const made = figure("net", { own: true, draw: drawGraph, label: labelGraph, numbers: graphNumbers });
  made.picture.setAttribute("role", "group");
  made.picture.after(element("ul", { class: "legend", id: "net-legend" }));
  offerColours();
  arrange();
  measure.addEventListener("change", () => {
    offerColours();
    arrange();
    redraw("net");
  });
  byId("net-colour").addEventListener("change", () => redraw("net"));
  byId("net-least").addEventListener("input", () => redraw("net"));
  byId("net-in").addEventListener("click", () => zoom(1.3));
  byId("net-out").addEventListener("click", () => zoom(1 / 1.3));
  byId("net-reset").addEventListener("click", () => {
    net.view = { x: 0, y: 0, zoom: 1 };
    net.chosen = null;
    arrange();
    redraw("net");
  });
  made.picture.addEventListener("keydown", (event) => {
    if (event.key === "Escape") choose(null);
  });
}

function netMeasure() {
  return study.measures[Number(byId("net-measure").value)];
}

function offerColours() {
  const select = byId("net-colour");
  const options = [];
  if (study.types.some(known)) options.push(["type", "task type"]);
  if (study.communities[netMeasure().name]) options.push(["community", "community"]);
  options.push(["none", "none"]);
  choices(select, options, options.some(([value]) => value === select.value) ? select.value : options[0][0]);
}

// Edges of the measure, and where tasks stand: by the arrows that are shown at first, about two a task.
function arrange() {
  const measure = netMeasure();
  net.edges = [];
  for (let s = 0; s < size; s++) {
    for (let t = 0; t < size; t++) if (s !== t && known(at(measure, s, t))) net.edges.push([s, t, at(measure, s, t)]);
  }
  net.values = net.edges.map((edge) => edge[2]).sort((a, b) => a - b);
  const rest = Math.max(net.values.length - 2 * size, 0);
  byId("net-least").value = String(net.values.length > 1 ? Math.round((STEPS * rest) / (net.values.length - 1)) : 0);
  const kept = keptEdges().map(([s, t, value]) => [s, t, strength(value)]);
  net.places = placed(size, kept, 7);
}

function least() {
  if (!net.values.length) return 0;
  return net.values[Math.round((Number(byId("net-least").value) / STEPS) * (net.values.length - 1))];
}

function keptEdges() {
  const limit = least();
  return net.edges.filter((edge) => edge[2] >= limit);
}

function strength(value) {
  const low = net.values[0];
  const high = net.values[net.values.length - 1];
  return high > low ? (value - low) / (high - low) : 1;
}

// The group of each task, and the groups' names in the order of their looks.
function groups() {
  const by = byId("net-colour").value;
  if (by === "type") {
    const kinds = [...new Set(study.types.map((one) => one || "no type"))].sort();
    return [study.types.map((one) => kinds.indexOf(one || "no type")), kinds];
  }
  if (by === "community") {
    const of = study.communities[netMeasure().name];
    const count = Math.max(...of) + 1;
    return [of.map((one) => (one < 0 ? count : one)), [...Array(count).keys()].map((i) => `community ${i + 1}`).concat(of.some((one) => one < 0) ? ["none"] : [])];
  }
  return [names.map(() => 0), ["task"]];
}

function drawGraph(picture, width) {
  net.width = Math.max(width, 200);
  net.height = Math.max(picture.clientHeight, 200);
  const focused = net.nodes.indexOf(document.activeElement);
  const kept = keptEdges();
  const [group, kinds] = groups();
  const tip = drawn("path", { d: "M0,0L8,3L0,6Z" });
  const marker = drawn("marker", { id: "tip", viewBox: "0 0 8 6", refX: 8, refY: 3, markerWidth: 9, markerHeight: 7, orient: "auto", markerUnits: "userSpaceOnUse" }, tip);
  net.lines = kept.map(([s, t, value]) => {
    const line = drawn("path", { class: "edge", "marker-end": "url(#tip)", "stroke-width": (0.6 + 2.2 * strength(value)).toFixed(2), "stroke-opacity": (0.35 + 0.5 * strength(value)).toFixed(2) });
    line.append(drawn("title", {}, cellText(netMeasure(), s, t).join(": ")));
    return { line, s, t };
  });
  net.nodes = names.map((name, i) => node(name, i, look(group[i]), kinds[group[i]], width));
  net.scene = drawn("g", {}, ...net.lines.map((one) => one.line), ...net.nodes);
  const svg = drawn("svg", { width: net.width, height: net.height, viewBox: `0 0 ${net.width} ${net.height}`, preserveAspectRatio: "xMidYMid meet" }, drawn("defs", {}, marker), net.scene);
  picture.replaceChildren(svg);
  pan(svg);
  move();
  mark();
  if (focused >= 0) net.nodes[focused].focus();
  byId("net-shown").textContent = net.values.length ? `${show(least())} or more: ${kept.length} of ${net.edges.length} arrows` : "no arrows";
  byId("net-legend").replaceChildren(...kinds.map((kind, i) => legendItem(kind, look(i))));
}

function legendItem(kind, { hue, shape }) {
  const key = drawn("svg", { viewBox: "-9 -9 18 18", "aria-hidden": "true" }, drawn("path", { d: shape, fill: hue }));
  return element("li", {}, key, " ", element("bdi", {}, kind));
}

function node(name, i, { hue, shape }, kind, width) {
  const label = drawn("text", { x: 11, y: 4 }, shortened(name, size > 30 || width < 500 ? 16 : 24));
  const full = drawn("title", {}, name);
  const made = drawn("g", { class: "node", tabindex: "0", role: "button", "aria-label": `${name}, ${kind}` }, full, drawn("path", { d: shape, fill: hue }), label);
  made.addEventListener("keydown", (event) => nodeKey(event, i));
  made.addEventListener("pointerdown", (event) => drag(event, i, made));
  return made;
}

function nodeKey(event, i) {
  const step = { ArrowUp: [0, -0.05], ArrowDown: [0, 0.05], ArrowLeft: [-0.03, 0], ArrowRight: [0.03, 0] }[event.key];
  if (step) {
    net.places[i] = [net.places[i][0] + step[0], net.places[i][1] + step[1]];
    move();
  } else if (event.key === "Enter" || event.key === " ") {
    choose(net.chosen === i ? null : i);
  } else return;
  event.preventDefault();
}

// Half of the room that tasks have, across and down: names stand to the right of them.
function room() {
  return [net.width / 2 - Math.min(110, net.width / 6), net.height / 2 - 24];
}

function pixels([x, y]) {
  const [across, down] = room();
  return [net.width / 2 - (net.width < 500 ? 24 : 20) + x * across, net.height / 2 + y * down];
}

function drag(event, i, made) {
  event.preventDefault();
  event.stopPropagation();
  made.focus();
  const from = [event.clientX, event.clientY];
  const start = net.places[i];
  const [across, down] = room();
  let moved = false;
  follow(
    made,
    event,
    (now) => {
      const gap = [now.clientX - from[0], now.clientY - from[1]];
      moved = moved || Math.hypot(...gap) > 3;
      if (moved) net.places[i] = [start[0] + gap[0] / (across * net.view.zoom), start[1] + gap[1] / (down * net.view.zoom)];
      move();
    },
    () => {
      if (!moved) choose(net.chosen === i ? null : i);
    },
  );
}

function follow(item, event, moving, done) {
  item.setPointerCapture(event.pointerId);
  const end = () => {
    item.removeEventListener("pointermove", moving);
    item.removeEventListener("pointercancel", end);
    item.removeEventListener("pointerup", up);
  };
  const up = () => {
    end();
    done();
  };
  item.addEventListener("pointermove", moving);
  item.addEventListener("pointercancel", end);
  item.addEventListener("pointerup", up);
}

function pan(svg) {
  svg.addEventListener("pointerdown", (event) => {
    const from = [event.clientX, event.clientY];
    const start = { ...net.view };
    const moving = (now) => {
      net.view.x = start.x + (now.clientX - from[0]);
      net.view.y = start.y + (now.clientY - from[1]);
      move();
    };
    follow(svg, event, moving, () => {});
  });
  svg.addEventListener(
    "wheel",
    (event) => {
      // A wheel that is turned to read on must not be caught on the way.
      if (!event.ctrlKey && !svg.contains(document.activeElement)) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    },
    { passive: false },
  );
}

function zoom(factor) {
  const next = Math.min(Math.max(net.view.zoom * factor, 0.3), 8);
  const ratio = next / net.view.zoom;
  net.view = { x: net.width / 2 + (net.view.x - net.width / 2) * ratio, y: net.height / 2 + (net.view.y - net.height / 2) * ratio, zoom: next };
  move();
}

function move() {
  if (!net.scene) return;
  net.scene.setAttribute("transform", `translate(${net.view.x},${net.view.y}) scale(${net.view.zoom})`);
  const places = net.places.map(pixels);
  net.nodes.forEach((made, i) => {
    made.setAttribute("transform", `translate(${places[i][0]},${places[i][1]})`);
    // A name that would end outside stands to the left of its task.
    const label = made.querySelector("text");
    const left = places[i][0] + 7 * label.textContent.length + 11 > net.width;
    label.setAttribute("x", left ? -11 : 11);
    label.setAttribute("text-anchor", left ? "end" : "start");
  });
  for (const { line, s, t } of net.lines) line.setAttribute("d", arc(places[s], places[t]));
}

// Bent a little, so that there and back are two lines; it ends where the task's shape begins.
function arc([x1, y1], [x2, y2]) {
  const length = Math.max(Math.hypot(x2 - x1, y2 - y1), 1e-6);
  const [ux, uy] = [(x2 - x1) / length, (y2 - y1) / length];
  const bend = Math.min(0.12 * length, 26);
  const middle = [(x1 + x2) / 2 - uy * bend, (y1 + y2) / 2 + ux * bend];
  const back = Math.max(Math.hypot(x2 - middle[0], y2 - middle[1]), 1e-6);
  const gap = Math.min(11, length / 3) / back;
  return `M${x1},${y1}Q${middle[0]},${middle[1]} ${x2 - (x2 - middle[0]) * gap},${y2 - (y2 - middle[1]) * gap}`;
}

function choose(i) {
  net.chosen = i;
  mark();
  if (i === null) {
    say("net", "");
    return;
  }
  const best = (edges, side) => edges.sort((a, b) => b[2] - a[2]).slice(0, 3).map((edge) => `${names[edge[side]]} (${show(edge[2])})`);
  const to = best(net.edges.filter((edge) => edge[1] === i), 0);
  const from = best(net.edges.filter((edge) => edge[0] === i), 1);
  const own = known(study.own[i]) ? ` Its own prompt reaches ${show(study.own[i])}.` : "";
  const type = known(study.types[i]) ? ` (${study.types[i]})` : "";
  say("net", `${names[i]}${type}.${own} Its best sources: ${to.join(", ") || "none known"}. Most useful for: ${from.join(", ") || "none known"}.`);
}

// What has nothing to do with the chosen task is faded.
function mark() {
  const beside = new Set([net.chosen]);
  for (const { line, s, t } of net.lines) {
    const touches = s === net.chosen || t === net.chosen;
    if (touches) beside.add(s).add(t);
    line.classList.toggle("faded", net.chosen !== null && !touches);
  }
  net.nodes.forEach((made, i) => {
    made.classList.toggle("chosen", i === net.chosen);
    made.classList.toggle("faded", net.chosen !== null && !beside.has(i));
    made.setAttribute("aria-pressed", String(i === net.chosen));
  });
}

function labelGraph() {
  return `Graph of ${size} tasks; ${keptEdges().length} arrows of ${netMeasure().name} of at least ${show(least())}. Each task can be focused; the table lists the arrows.`;
}

function graphNumbers() {
  const columns = [["source", false], ["target", false], ["measure", false], ["value", true]];
  const rows = keptEdges().sort((a, b) => b[2] - a[2]).map(([s, t, value]) => [names[s], names[t], netMeasure().name, value]);
  return { file: "graph.csv", columns, rows };
}
