// The ranking of one target: table, picture, baselines, notes.

const RELATIVE = study.measures.find((one) => one.kind === "relative" && one.name.startsWith(study.protocol + " "));

const ranking = { found: null, rows: [], chosen: true };

function startRanking() {
  const target = byId("rank-target");
  const by = byId("rank-by");
  if (!target) return;
  choices(target, study.rankings.map((one, i) => [String(i), one.target]), "0");
  figure("rank", { draw: drawRanking, label: labelRanking, numbers: rankingNumbers });
  target.addEventListener("change", () => {
    offerOrders();
    rank();
  });
  by.addEventListener("change", rank);
  offerOrders();
  rank();
}

// The stored order first: it has intervals. Others are of values alone.
function offerOrders() {
  const by = byId("rank-by");
  const kept = by.value;
  const found = study.rankings[Number(byId("rank-target").value)];
  const usual = found.indicator ? `${found.indicator} (chosen for this target)` : "what was measured";
  const options = [["", usual]];
  study.measures.forEach((one, i) => {
    if (one.name !== found.indicator && one.kind !== "relative") options.push([String(i), one.name, KINDS[one.kind]]);
  });
  choices(by, options, options.some(([value]) => value === kept) ? kept : "");
}

function rank() {
  ranking.found = study.rankings[Number(byId("rank-target").value)];
  const by = byId("rank-by").value;
  ranking.chosen = by === "";
  ranking.measure = ranking.chosen ? null : study.measures[Number(by)];
  const target = names.indexOf(ranking.found.target);
  const stored = ranking.found.sources.map(([source, score, low, high, tie, measured, evidence]) => {
    return { source, place: names.indexOf(source), score, low, high, tie, measured, evidence };
  });
  ranking.rows = ranking.chosen ? stored : byMeasure(ranking.measure, target, stored);
  for (const row of ranking.rows) row.relative = RELATIVE ? at(RELATIVE, row.place, target) : null;
  byId("rank-table").replaceChildren(rankingTable());
  byId("rank-baselines").replaceChildren(baselineTable());
  const notes = ranking.chosen ? ranking.found.notes : [aboutOther(), ranking.measure.about + "."];
  byId("rank-notes").replaceChildren(...notes.map((note) => element("li", {}, note)));
  const first = ranking.rows[0];
  say("rank", first ? `First for ${ranking.found.target}: ${first.source}${known(first.measured) ? ", measured " + show(first.measured) : ""}.` : "");
  if (figures.get("rank").there) redraw("rank");
}

function byMeasure(measure, target, stored) {
  return stored
    .map((row) => ({ ...row, score: at(measure, row.place, target), low: null, high: null, tie: null, evidence: null }))
    .sort((a, b) => (known(b.score) ? b.score : -Infinity) - (known(a.score) ? a.score : -Infinity));
}

function aboutOther() {
  return (
    `Ordered by the values of ${ranking.measure.name} alone: no intervals and no ties. ` +
    "transferscope rank TARGET --study STUDY --indicator NAME gives them."
  );
}

function typeOf(place) {
  return study.types[place] || "";
}

function tied(value) {
  return value === null ? "" : value ? "tie" : "no";
}

function rankingTable() {
  const columns = [
    ["source", false],
    ["place", COUNT],
    ["type", false],
    ["score", true],
    ["95 % interval", true],
    ["tie with the first (seeds)", false],
    ["tie with the first (evidence)", false],
    ["measured", true],
    ["of the own prompt", true],
  ];
  const rows = ranking.rows.map((row, i) => [
    nameCell(row.source, row.place), i + 1, typeOf(row.place), row.score, ends(row.low, row.high), i ? tied(row.tie) : "", i ? tied(row.evidence) : "", row.measured, row.relative,
  ]);
  return withoutEmpty(columns, rows);
}

function nameCell(name, place) {
  if (!study.weak[place]) return name;
  const badge = element("span", { class: "badge", title: "no better than the majority class" }, "weak prompt");
  return element("span", {}, element("bdi", {}, name), " ", badge);
}

function withoutEmpty(columns, rows) {
  const keep = columns.map((_, i) => i < 2 || rows.some((row) => known(row[i]) && row[i] !== ""));
  return table(columns.filter((_, i) => keep[i]), rows.map((row) => row.filter((_, i) => keep[i])));
}

function picked(best) {
  const shown = best.slice(0, 4).flatMap((name, i) => [i ? ", " : "", element("bdi", {}, name)]);
  return element("span", {}, ...shown, best.length > 4 ? ` and ${best.length - 4} more` : "");
}

function baselineTable() {
  const columns = [["baseline", false], ["what it is", false], ["picks", false], ["measured", true]];
  const rows = ranking.found.baselines.map(([name, description, best, , measured]) => {
    const several = best ? picked(best) : "any";
    return [name, description, several, measured];
  });
  return table(columns, rows);
}

function drawRanking(picture, width) {
  const rows = ranking.rows;
  const scored = rows.some((row) => known(row.score)) && !(ranking.measure && ranking.measure.kind === "measured");
  const measured = rows.some((row) => known(row.measured));
  const hover = rows.map((row, i) => plain(`${i + 1}. ${row.source}`) + `<br>score ${show(row.score)} ${ends(row.low, row.high)}` +
    (known(row.measured) ? `<br>measured ${show(row.measured)}` : "") + (known(row.relative) ? ` (${show(row.relative, 3)} of own)` : ""));
  const y = rows.map((_, i) => i);
  const base = { type: "scatter", mode: "markers", y, text: hover, hoverinfo: "text" };
  const traces = [];
  if (scored) {
    traces.push({ ...base, x: rows.map((row) => row.score), error_x: bars(rows, "low", "high", "score"), marker: { color: HUES[0], size: 9 } });
  }
  if (measured) {
    traces.push({ ...base, x: rows.map((row) => row.measured), xaxis: scored ? "x2" : "x", marker: { color: HUES[1], size: 9, symbol: "square" } });
  }
  const label = ranking.chosen ? ranking.found.indicator : ranking.measure.name;
  const both = scored && measured;
  const few = width < 500 ? { nticks: 4 } : {};
  return plot(picture, traces, {
    width,
    height: 80 + 22 * rows.length,
    yaxis: named(rows.map((row) => row.source), width, { range: [rows.length - 0.4, -0.6], showgrid: true }),
    xaxis: axis({ domain: both ? [0, 0.6] : [0, 1], title: scored ? shortened(label || "", letters(width)) : "measured", ...few }),
    ...(both ? { xaxis2: axis({ domain: [0.68, 1], anchor: "y", title: "measured", range: span(rows.map((row) => row.measured)), ...few }) } : {}),
  });
}

function labelRanking() {
  const order = ranking.rows.slice(0, 10).map((row, i) => `${i + 1} ${row.source} ${show(row.score)}`);
  const more = ranking.rows.length > 10 ? ` and ${ranking.rows.length - 10} more` : "";
  return `Sources for ${ranking.found.target}, best first: ${order.join("; ")}${more}. The table below has all.`;
}

function rankingNumbers() {
  const columns = [
    ["target", false], ["indicator", false], ["place", COUNT], ["source", false], ["type", false], ["score", true], ["low", true],
    ["high", true], ["ties_with_best", false], ["tied_by_evidence", false], ["measured", true], ["relative", true],
  ];
  const by = ranking.chosen ? ranking.found.indicator || "" : ranking.measure.name;
  const rows = ranking.rows.map((row, i) => [
    ranking.found.target, by, i + 1, row.source, typeOf(row.place), row.score, row.low, row.high, row.tie, row.evidence, row.measured, row.relative,
  ]);
  return { file: "ranking.csv", columns, rows };
}
