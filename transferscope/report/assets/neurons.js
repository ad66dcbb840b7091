// Skill neurons: in which layers they lie, and the most predictive ones of one task.

function startNeurons() {
  if (!byId("layers")) return;
  choices(byId("top-task"), study.neurons.tasks.map((one, i) => [String(i), one.task]), "0");
  figure("layers", { draw: drawLayers, label: labelLayers, numbers: layerNumbers });
  figure("top", { draw: drawTop, label: labelTop, numbers: topNumbers });
  byId("top-task").addEventListener("change", () => redraw("top"));
}

function shares(one) {
  const all = one.counts.reduce((a, b) => a + b, 0) || 1;
  return one.counts.map((count) => count / all);
}

function drawLayers(picture, width) {
  const tasks = study.neurons.tasks;
  const layers = tasks[0].counts.length;
  const z = tasks.map(shares);
  const few = layers <= 14 && width >= 600;
  const trace = {
    type: "heatmap",
    z,
    text: tasks.map((one, i) => one.counts.map((count, layer) => `${plain(one.task)}<br>layer ${layer}: ${count} neurons, ${(100 * z[i][layer]).toFixed(1)} %`)),
    hoverinfo: "text",
    colorscale: "Cividis",
    zmin: 0,
    xgap: 1,
    ygap: 1,
    colorbar: { thickness: 12, len: 1, outlinewidth: 0, tickformat: ".0%", tickfont: { color: colour("--text"), size: 11 }, nticks: 5 },
    ...(few ? { texttemplate: "%{z:.0%}", textfont: { size: 11 } } : {}),
  };
  const fontSize = tasks.length > 30 ? 9 : 11;
  say("layers", `The highest ${(100 * study.neurons.rate).toFixed(0)} % of the network's neurons; were each layer as good as another, every cell had ${(100 / layers).toFixed(0)} %.`);
  return plot(picture, [trace], {
    width,
    height: 90 + tasks.length * (tasks.length > 30 ? 13 : 26),
    xaxis: axis({ title: "layer", showgrid: false, ...(layers <= 26 ? { dtick: 1 } : {}) }),
    yaxis: named(tasks.map((one) => one.task), width, { range: [tasks.length - 0.5, -0.5], tickfont: { size: fontSize, color: colour("--text") } }),
  });
}

function labelLayers() {
  const tasks = study.neurons.tasks;
  const mean = tasks[0].counts.map((_, layer) => tasks.reduce((sum, one) => sum + shares(one)[layer], 0) / tasks.length);
  return `Share of skill neurons by layer, mean over ${tasks.length} tasks: ${mean.map((share, layer) => `layer ${layer} ${(100 * share).toFixed(0)} %`).join(", ")}.`;
}

function layerNumbers() {
  const columns = [["task", false], ["layer", COUNT], ["neurons", COUNT], ["expected", true]];
  const rows = study.neurons.tasks.flatMap((one) => one.counts.map((count, layer) => [one.task, layer, count, one.expected]));
  return { file: "layers.csv", columns, rows };
}

function topTask() {
  return study.neurons.tasks[Number(byId("top-task").value)];
}

function topRows() {
  return topTask().top.map(([layer, neuron, mean, low, high, subtask, stimulation]) => ({ layer, neuron, mean, low, high, subtask, stimulation }));
}

function drawTop(picture, width) {
  const rows = topRows();
  const trace = {
    type: "scatter",
    mode: "markers",
    x: rows.map((row) => row.mean),
    y: rows.map((_, i) => i),
    error_x: bars(rows, "low", "high", "mean"),
    marker: { color: HUES[0], size: 9 },
    text: rows.map((row) => `layer ${row.layer}, neuron ${row.neuron}<br>predictivity ${show(row.mean)} ${ends(row.low, row.high)} (trials)` + (row.subtask ? `<br>best for ${plain(row.subtask)}` : "")),
    hoverinfo: "text",
  };
  say("top", rows.length ? `Most predictive for ${topTask().task}: layer ${rows[0].layer}, neuron ${rows[0].neuron} (${show(rows[0].mean)}).` : "");
  return plot(picture, [trace], {
    width,
    height: 80 + 24 * rows.length,
    xaxis: axis({ title: "predictivity", range: span(rows.flatMap((row) => [row.low, row.mean, row.high])), ...(width < 500 ? { nticks: 5 } : {}) }),
    yaxis: named(rows.map((row) => `layer ${row.layer}, neuron ${row.neuron}`), 1000, { range: [rows.length - 0.4, -0.6], showgrid: true }),
  });
}

function labelTop() {
  const said = topRows().map((row) => `layer ${row.layer} neuron ${row.neuron} ${show(row.mean, 3)}`);
  return `The most predictive neurons of ${topTask().task}: ${said.join("; ")}.`;
}

function topNumbers() {
  const columns = [["task", false], ["layer", COUNT], ["neuron", COUNT], ["predictivity", true], ["low", true], ["high", true], ["subtask", false], ["stimulation", true]];
  const rows = topRows().map((row) => [topTask().task, row.layer, row.neuron, row.mean, row.low, row.high, row.subtask, row.stimulation]);
  return { file: "neurons.csv", columns, rows };
}
