// Every source with every target, for one measure.

const heat = { order: [], cursor: null };

function startHeatmap() {
  const measure = byId("heat-measure");
  if (!measure) return;
  measureChoices(measure, "0");
  const orders = [["study", "as in the study"], ["name", "by name"]];
  if (study.types.some(known)) orders.unshift(["type", "by type"]);
  choices(byId("heat-order"), orders, orders[0][0]);
  const made = figure("heat", { draw: drawHeatmap, label: labelHeatmap, numbers: heatmapNumbers });
  measure.addEventListener("change", () => redraw("heat"));
  byId("heat-order").addEventListener("change", () => redraw("heat"));
  made.picture.tabIndex = 0;
  made.picture.addEventListener("keydown", moveCursor);
}

function heatMeasure() {
  return study.measures[Number(byId("heat-measure").value)];
}

function ordered() {
  const places = names.map((_, i) => i);
  const order = byId("heat-order").value;
  if (order === "name") places.sort((a, b) => (names[a] < names[b] ? -1 : 1));
  if (order === "type") places.sort((a, b) => (typeOf(a) === typeOf(b) ? a - b : typeOf(a) < typeOf(b) ? -1 : 1));
  return places;
}

function cellText(measure, source, target) {
  const value = at(measure, source, target);
  const error = measure.errors ? measure.errors[source * size + target] : null;
  const said = known(value) ? show(value) + (known(error) ? ` \u00b1 ${show(error)} (standard error over seeds)` : "") : "not known";
  return [`${names[source]} \u2192 ${names[target]}`, `${measure.name}: ${said}`];
}

// A task with itself may be far from all others (a distance of 0): it does not set the scale of an indicator.
function scale(measure) {
  const values = measure.values.filter((value, i) => known(value) && (measure.kind !== "indicator" || i % (size + 1) !== 0));
  return values.length ? [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] : [0, 1];
}

function drawHeatmap(picture, width) {
  const measure = heatMeasure();
  const places = (heat.order = ordered());
  const [low, high] = scale(measure);
  const few = size <= 12 && width >= 600;
  const fontSize = size > 30 ? 9 : 11;
  const row = Math.max(size > 30 ? 13 : 26, Math.min(44, 360 / size));
  const wide = Math.max(width, Math.min(150, 6 * letters(width)) + 12 * size + 90); // more than the window has: it scrolls
  const shownNames = places.map((place) => names[place]);
  const trace = {
    type: "heatmap",
    z: places.map((s) => places.map((t) => at(measure, s, t))),
    text: places.map((s) => places.map((t) => cellText(measure, s, t).map(plain).join("<br>"))),
    hoverinfo: "text",
    hoverongaps: false,
    colorscale: "Cividis",
    zmin: low,
    zmax: high > low ? high : low + 1,
    xgap: size > 30 ? 0 : 1,
    ygap: size > 30 ? 0 : 1,
    colorbar: { thickness: 12, len: 1, outlinewidth: 0, tickfont: { color: colour("--text"), size: 11 }, nticks: 6 },
    ...(few ? { texttemplate: "%{z:.2f}", textfont: { size: 11 } } : {}),
  };
  const font = { tickfont: { size: fontSize, color: colour("--text") } };
  return plot(picture, [trace], {
    width: wide,
    height: row * size + 130,
    xaxis: named(shownNames, width, { side: "top", tickangle: -60, title: "target", ...font }),
    yaxis: named(shownNames, width, { range: [size - 0.5, -0.5], title: "source", ...font }),
  });
}

function labelHeatmap() {
  const measure = heatMeasure();
  const [low, high] = scale(measure);
  return `Heatmap of ${measure.name}, ${size} sources by ${size} targets, from ${show(low)} to ${show(high)}. Arrow keys read its cells; the table has all.`;
}

function moveCursor(event) {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  if (!heat.order.length) return;
  const [row, column] = heat.cursor ? [heat.cursor[0] + step[0], heat.cursor[1] + step[1]] : [0, 0];
  heat.cursor = [row, column].map((place) => Math.min(Math.max(place, 0), size - 1));
  const [source, target] = heat.cursor.map((place) => heat.order[place]);
  say("heat", cellText(heatMeasure(), source, target).join(". "));
  Plotly.Fx.hover(byId("heat-picture"), { xval: heat.cursor[1], yval: heat.cursor[0] });
}

function heatmapNumbers() {
  const measure = heatMeasure();
  const columns = [["source", false], ["target", false], ["measure", false], ["value", true]];
  const rows = [];
  for (let s = 0; s < size; s++) {
    for (let t = 0; t < size; t++) if (known(at(measure, s, t))) rows.push([names[s], names[t], measure.name, at(measure, s, t)]);
  }
  return { file: "pairs.csv", columns, rows };
}
