// Charts with plotly: one layout for all, and text that plotly cannot take for markup.

// Plotly reads a few HTML tags in its texts, links among them.
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function axis(more = {}) {
  const { title, ...rest } = more;
  return {
    fixedrange: true,
    automargin: true,
    zeroline: false,
    gridcolor: colour("--line"),
    linecolor: colour("--line"),
    tickfont: { color: colour("--text") },
    title: { text: title ? plain(title) : "", font: { color: colour("--muted"), size: 12 }, standoff: 8 },
    ...rest,
  };
}

function plot(picture, traces, layout) {
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--text"), size: 12, family: getComputedStyle(document.body).fontFamily },
    margin: { l: 8, r: 12, t: 10, b: 30 },
    dragmode: false,
    hovermode: "closest",
    hoverlabel: { bgcolor: colour("--page"), bordercolor: colour("--muted"), font: { color: colour("--text") }, align: "left" },
    showlegend: false,
    autosize: false,
  };
  return Plotly.react(picture, traces, { ...base, ...layout }, { displayModeBar: false, scrollZoom: false, doubleClick: false });
}

function letters(width) {
  return width < 500 ? 15 : 28;
}

// Names along an axis: places are numbers, so that two names which look alike shortened stay two.
function named(list, width, more = {}) {
  return axis({
    tickmode: "array",
    tickvals: list.map((_, i) => i),
    ticktext: list.map((name) => plain(shortened(name, letters(width)))),
    showgrid: false,
    ...more,
  });
}

function bars(rows, low, high, mean) {
  return {
    type: "data",
    symmetric: false,
    array: rows.map((row) => (known(row[high]) && known(row[mean]) ? row[high] - row[mean] : 0)),
    arrayminus: rows.map((row) => (known(row[low]) && known(row[mean]) ? row[mean] - row[low] : 0)),
    color: colour("--muted"),
    thickness: 1.5,
    width: 4,
  };
}

// From the lowest to the highest value, with room on both sides even where all are one.
function span(values) {
  const there = values.filter(known);
  if (!there.length) return [0, 1];
  const [low, high] = [there.reduce((a, b) => Math.min(a, b)), there.reduce((a, b) => Math.max(a, b))];
  const margin = high > low ? 0.06 * (high - low) : Math.max(0.05 * Math.abs(high), 0.01);
  return [low - margin, high + margin];
}

function ends(low, high) {
  return known(low) && known(high) ? `[${show(low)}, ${show(high)}]` : "";
}
