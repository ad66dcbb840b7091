// How far indicators agree with measured transfer: a forest of intervals, and budget curves.

const SCOPES = { all: "all", "same-type": "of the target's type", "different-type": "of other types" };
const forest = { rows: [] };

function startAgreement() {
  const metric = byId("forest-metric");
  if (!metric) return;
  const scopes = new Set(study.agreement.scores.map((score) => score[2]));
  choices(metric, study.agreement.metrics.map(([name]) => [name, name]), "spearman");
  choices(byId("forest-scope"), [...scopes].map((scope) => [scope, SCOPES[scope] || scope]), "all");
  figure("forest", { draw: drawForest, label: labelForest, numbers: forestNumbers });
  figure("budget", { draw: drawBudget, label: labelBudget, numbers: budgetNumbers });
  offerLines();
  metric.addEventListener("change", () => judge(true));
  byId("forest-scope").addEventListener("change", () => judge(true));
  judge(false);
}

function judge(now) {
  const name = byId("forest-metric").value;
  const [, definition, higher] = study.agreement.metrics.find((one) => one[0] === name);
  forest.rows = study.agreement.scores
    .filter((score) => score[3] === name && score[2] === byId("forest-scope").value)
    .map(([label, kind, scope, metric, mean, low, high, p, targets, skipped]) => ({ name: label, kind, scope, metric, mean, low, high, p, targets, skipped }))
    .sort((a, b) => (higher ? 1 : -1) * (sortValue(b, higher) - sortValue(a, higher)));
  say("forest", `${name}: ${definition}. ${higher ? "Higher" : "Lower"} is better. ${study.agreement.targets} targets; intervals: 95 %, by drawing ${study.agreement.resampled} anew. Dotted: a random order.`);
  if (now) redraw("forest");
}

function sortValue(row, higher) {
  return known(row.mean) ? row.mean : higher ? -Infinity : Infinity;
}

function drawForest(picture, width) {
  const rows = forest.rows;
  const chance = rows.find((row) => row.name === "random");
  const trace = {
    type: "scatter",
    mode: "markers",
    x: rows.map((row) => row.mean),
    y: rows.map((_, i) => i),
    error_x: bars(rows, "low", "high", "mean"),
    marker: {
      size: 9,
      color: rows.map((row) => (row.kind === "baseline" ? HUES[1] : HUES[0])),
      symbol: rows.map((row) => (row.kind === "baseline" ? "diamond" : "circle")),
    },
    text: rows.map((row) => plain(row.name) + `<br>${row.kind}, ${row.metric} ${show(row.mean, 3)} ${ends(row.low, row.high)}` +
      (known(row.p) ? `<br>p = ${show(row.p, 4)}${row.kind === "indicator" ? " (corrected)" : ""}` : "") + `<br>${row.targets} targets` + (row.skipped ? `, ${row.skipped} skipped` : "")),
    hoverinfo: "text",
  };
  const line = chance && known(chance.mean) ? [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: chance.mean, x1: chance.mean, line: { color: colour("--muted"), dash: "dot", width: 1.5 } }] : [];
  return plot(picture, [trace], {
    width,
    height: 70 + 20 * rows.length,
    shapes: line,
    xaxis: axis({ title: rows.length ? rows[0].metric : "", range: span(rows.flatMap((row) => [row.low, row.mean, row.high])), ...(width < 500 ? { nticks: 5 } : {}) }),
    yaxis: named(rows.map((row) => row.name), width, { range: [rows.length - 0.4, -0.6], showgrid: true }),
  });
}

function labelForest() {
  const first = forest.rows.slice(0, 6).map((row) => `${row.name} (${row.kind}) ${show(row.mean, 2)} ${ends(row.low, row.high)}`);
  return `${byId("forest-metric").value} of ${forest.rows.length} indicators and baselines, best first: ${first.join("; ")}. The table has all.`;
}

function forestNumbers() {
  const columns = [["name", false], ["kind", false], ["scope", false], ["metric", false], ["mean", true], ["low", true], ["high", true], ["p", true], ["targets", COUNT], ["skipped", COUNT]];
  const rows = forest.rows.map((row) => [row.name, row.kind, row.scope, row.metric, row.mean, row.low, row.high, row.p, row.targets, row.skipped]);
  return { file: "agreement.csv", columns, rows };
}

function budgetLines() {
  const lines = new Map();
  for (const [name, kind, k, mean, low, high] of study.budget) {
    if (!lines.has(name)) lines.set(name, { name, kind, points: [] });
    lines.get(name).points.push({ k, mean, low, high });
  }
  return [...lines.values()];
}

// The keyboard reaches a select, not a legend.
function offerLines() {
  const select = element("select", { id: "budget-lines", autocomplete: "off" });
  const lines = budgetLines();
  const one = lines.filter((line) => line.kind === "indicator").map((line) => [line.name, line.name, "One indicator, and the baselines"]);
  choices(select, [["few", "the best three indicators, and the baselines"], ["all", "all"], ...one], lines.length > 6 ? "few" : "all");
  byId("budget").querySelector(".controls").replaceChildren(element("label", { for: "budget-lines" }, "Lines ", select));
  select.addEventListener("change", () => redraw("budget"));
}

function chosenLines() {
  const lines = budgetLines();
  const chosen = byId("budget-lines").value;
  const loss = (line) => line.points.reduce((sum, point) => sum + (known(point.mean) ? point.mean : 1e9), 0);
  const found = lines.filter((line) => line.kind === "indicator").sort((a, b) => loss(a) - loss(b));
  const baselines = lines.filter((line) => line.kind === "baseline");
  if (chosen === "all") return [...found, ...baselines];
  return [...(chosen === "few" ? found.slice(0, 3) : found.filter((line) => line.name === chosen)), ...baselines];
}

function drawBudget(picture, width) {
  const dashes = ["solid", "dash", "dot", "dashdot"];
  const symbols = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "hexagon"];
  const lines = chosenLines();
  const single = lines.filter((line) => line.kind === "indicator").length === 1;
  const traces = lines.map((line, i) => ({
    type: "scatter",
    mode: "lines+markers",
    name: plain(shortened(line.name, 28)),
    x: line.points.map((point) => point.k),
    y: line.points.map((point) => point.mean),
    line: { color: HUES[i % HUES.length], dash: line.kind === "baseline" ? dashes[1 + (i % 3)] : "solid", width: 2 },
    marker: { symbol: symbols[i % symbols.length], size: 7 },
    ...(single && line.kind === "indicator" ? { error_y: bars(line.points, "low", "high", "mean") } : {}),
    text: line.points.map((point) => `${plain(line.name)}<br>first ${point.k}: ${show(point.mean)} ${ends(point.low, point.high)}`),
    hoverinfo: "text",
  }));
  const below = width < 700;
  return plot(picture, traces, {
    width,
    height: below ? 320 + 20 * lines.length : Math.max(340, 60 + 20 * lines.length),
    showlegend: true,
    legend: { itemclick: false, itemdoubleclick: false, ...(below ? { orientation: "v", y: -0.25, yanchor: "top", x: 0 } : {}) },
    xaxis: axis({ title: "sources measured", dtick: 1 }),
    yaxis: axis({ title: "lost", rangemode: "tozero" }),
  });
}

function labelBudget() {
  const said = chosenLines().map((line) => `${line.name} ${line.points.map((point) => show(point.mean, 3)).join(", ")}`);
  return `Lost when the first 1, 2, 3 ... sources are measured: ${said.slice(0, 8).join("; ")}.`;
}

function budgetNumbers() {
  const columns = [["name", false], ["kind", false], ["k", COUNT], ["lost", true], ["low", true], ["high", true]];
  const rows = chosenLines().flatMap((line) => line.points.map((point) => [line.name, line.kind, point.k, point.mean, point.low, point.high]));
  return { file: "budget.csv", columns, rows };
}
