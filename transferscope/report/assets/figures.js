// Figures: each is drawn when it is first near the window, again when the theme or the width changes, and for paper.

const figures = new Map();
const PAPER = 660; // CSS pixels: what A4 leaves between margins

let onPaper = false;

// `parts`: draw(picture, width), label() for who cannot see it, numbers() -> {file, columns, rows}; `own`: drawn
// without plotly, whose script comes last, as it takes longest.
function figure(id, parts) {
  const box = byId(id);
  if (!box) return null;
  const made = { ...parts, id, box, picture: byId(id + "-picture"), there: false, near: false };
  figures.set(id, made);
  box.querySelector(".csv").addEventListener("click", () => {
    const { file, columns, rows } = made.numbers();
    download(file, csvText(columns, rows));
  });
  box.querySelector("details.numbers").addEventListener("toggle", () => fillNumbers(made));
  nearby.observe(box);
  return made;
}

const nearby = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const made = figures.get(entry.target.id);
      if (!made) continue;
      made.near = entry.isIntersecting;
      if (made.near && !made.there) redraw(made.id);
    }
  },
  { rootMargin: "600px" },
);

function redraw(id) {
  const made = figures.get(id);
  if (!made || !(made.own || typeof Plotly !== "undefined")) return;
  made.there = true;
  made.draw(made.picture, onPaper ? Math.min(PAPER, made.picture.clientWidth) : made.picture.clientWidth);
  made.picture.setAttribute("aria-label", made.label());
  fillNumbers(made);
}

function fillNumbers(made) {
  const details = made.box.querySelector("details.numbers");
  if (!details.open) return;
  const { columns, rows } = made.numbers();
  details.querySelector(".scroll").replaceChildren(table(columns, rows));
}

// Once plotly is there: what waited for it.
function drawNear() {
  for (const made of figures.values()) if (made.near && !made.there) redraw(made.id);
  document.documentElement.dataset.drawn = "yes";
}

function say(id, text) {
  byId(id + "-said").textContent = text;
}

function redrawAll(every) {
  for (const made of figures.values()) if (every || made.there) redraw(made.id);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Okabe and Ito 2008, safe for colour-blind people; a shape goes with each, so that grey is enough.
const HUES = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C8C8C", "#B3A100"];
const SHAPES = [
  "M-7,0a7,7 0 1,0 14,0a7,7 0 1,0 -14,0Z",
  "M-6,-6H6V6H-6Z",
  "M0,-8L7.5,6H-7.5Z",
  "M0,-8L8,0L0,8L-8,0Z",
  "M0,8L7.5,-6H-7.5Z",
  "M-2.5,-7.5H2.5V-2.5H7.5V2.5H2.5V7.5H-2.5V2.5H-7.5V-2.5H-2.5Z",
  "M-7,-4L0,-8L7,-4V4L0,8L-7,4Z",
];

function look(i) {
  return { hue: HUES[i % HUES.length], shape: SHAPES[i % SHAPES.length] };
}

let lastWidth = window.innerWidth;
let waiting = 0;
window.addEventListener("resize", () => {
  if (window.innerWidth === lastWidth) return; // a phone's address bar changes the height alone
  lastWidth = window.innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(() => redrawAll(false), 150);
});

function paper(now) {
  if (onPaper === now) return;
  onPaper = now;
  redrawAll(now);
}
window.addEventListener("beforeprint", () => paper(true));
window.addEventListener("afterprint", () => paper(false));
window.matchMedia("print").addEventListener("change", (event) => paper(event.matches));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redrawAll(false));
