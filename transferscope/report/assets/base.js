// The study's numbers, and the few ways in which text gets from them into the page: always as text, never as markup.
"use strict";

const study = JSON.parse(document.getElementById("study").textContent);
const names = study.tasks;
const size = names.length;

function byId(id) {
  return document.getElementById(id);
}

// An element with attributes and children; strings among the children become text.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function known(value) {
  return value !== null && value !== undefined;
}

function show(value, digits = 4) {
  if (!known(value)) return "";
  if (typeof value !== "number") return String(value);
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toPrecision(3) : value.toFixed(digits);
}

// A name for where there is little room; the whole one stands in tables, labels and what a pointer shows.
function shortened(name, most) {
  const letters = Array.from(name);
  if (letters.length <= most) return name;
  const head = Math.ceil((most - 1) * 0.65);
  return letters.slice(0, head).join("") + "\u2026" + letters.slice(letters.length - (most - 1 - head)).join("");
}

// Where [source, target] stands in a measure.
function at(measure, source, target) {
  return measure.values[source * size + target];
}

function choices(select, options, chosen) {
  const groups = new Map();
  select.replaceChildren();
  for (const [value, label, group] of options) {
    const option = element("option", { value }, shortened(label, 60));
    option.title = label;
    if (!group) {
      select.append(option);
      continue;
    }
    if (!groups.has(group)) {
      groups.set(group, element("optgroup", { label: group }));
      select.append(groups.get(group));
    }
    groups.get(group).append(option);
  }
  if (known(chosen)) select.value = String(chosen);
}

const KINDS = { measured: "Measured transfer", relative: "Measured, relative", indicator: "Indicators" };

function measureChoices(select, chosen) {
  choices(select, study.measures.map((one, i) => [String(i), one.name, KINDS[one.kind]]), chosen);
}

// A count of things, with no decimals.
const COUNT = "count";

function counted(value) {
  return known(value) ? String(value) : "";
}

// A table of `columns` [[name, false | true (a number) | COUNT], ...]; the first column heads its row.
function table(columns, rows) {
  const head = element("tr");
  for (const [name, number] of columns) {
    head.append(element("th", { scope: "col", class: number ? "number" : null }, name));
  }
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr");
    row.forEach((value, i) => {
      const number = columns[i][1];
      const text = value instanceof Node ? value : number === COUNT ? counted(value) : show(value);
      const kind = number ? "number" : /\S{25}/.test(typeof text === "string" ? text : text.textContent) ? "long" : null;
      const cell = element(i === 0 ? "th" : "td", { class: kind, scope: i === 0 ? "row" : null });
      cell.append(text);
      line.append(cell);
    });
    body.append(line);
  }
  return element("table", {}, element("thead", {}, head), body);
}

// Text that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay numbers.
function csvCell(value) {
  if (!known(value)) return "";
  if (typeof value === "number") return String(value);
  let text = String(value);
  if (/^[=+\-@\t\r]/.test(text)) text = "'" + text;
  return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function csvText(columns, rows) {
  const lines = [columns.map((column) => column[0]), ...rows];
  return lines.map((row) => row.map(csvCell).join(",")).join("\n") + "\n";
}

function download(file, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = element("a", { href: address, download: file });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
