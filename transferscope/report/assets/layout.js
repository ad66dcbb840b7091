// Where the tasks of a graph stand: a force layout that gives the same places for the same graph, every time.

// Mulberry32: a small generator whose seed is all that it depends on.
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

// Fruchterman and Reingold 1991: `edges` [[i, j, strength in [0, 1]], ...] pull, all pairs push, a weak pull to the
// middle holds parts together. Places are in [-1, 1].
function placed(count, edges, seed, rounds = 300) {
  const random = generator(seed);
  const x = [];
  const y = [];
  for (let i = 0; i < count; i++) {
    const turn = (2 * Math.PI * i) / Math.max(count, 1);
    x.push(Math.cos(turn) + 0.1 * random());
    y.push(Math.sin(turn) + 0.1 * random());
  }
  const ideal = 1.6 / Math.sqrt(Math.max(count, 1));
  for (let round = 0; round < rounds; round++) {
    const heat = 0.12 * (1 - round / rounds) + 0.002;
    const dx = new Array(count).fill(0);
    const dy = new Array(count).fill(0);
    for (let i = 0; i < count; i++) {
      for (let j = i + 1; j < count; j++) {
        const gap = [x[i] - x[j], y[i] - y[j]];
        const square = Math.max(gap[0] * gap[0] + gap[1] * gap[1], 1e-6);
        const push = (ideal * ideal) / square;
        dx[i] += gap[0] * push;
        dy[i] += gap[1] * push;
        dx[j] -= gap[0] * push;
        dy[j] -= gap[1] * push;
      }
    }
    for (const [i, j, strength] of edges) {
      const gap = [x[i] - x[j], y[i] - y[j]];
      const pull = (Math.hypot(gap[0], gap[1]) / ideal) * (0.15 + 0.85 * strength) * 0.35;
      dx[i] -= gap[0] * pull;
      dy[i] -= gap[1] * pull;
      dx[j] += gap[0] * pull;
      dy[j] += gap[1] * pull;
    }
    for (let i = 0; i < count; i++) {
      dx[i] -= 0.35 * x[i];
      dy[i] -= 0.35 * y[i];
      const length = Math.max(Math.hypot(dx[i], dy[i]), 1e-9);
      x[i] += (dx[i] / length) * Math.min(length, heat);
      y[i] += (dy[i] / length) * Math.min(length, heat);
    }
  }
  return apart(...fitted(x, y));
}

// Names are wide and low: tasks whose names would lie on each other are moved up and down.
function apart(x, y) {
  for (let round = 0; round < 80; round++) {
    for (let i = 0; i < x.length; i++) {
      for (let j = i + 1; j < x.length; j++) {
        const gap = y[i] - y[j];
        if (Math.abs(x[i] - x[j]) >= 0.22 || Math.abs(gap) >= 0.07) continue;
        const step = ((0.07 - Math.abs(gap)) / 2) * (gap < 0 ? -1 : 1);
        y[i] += step;
        y[j] -= step;
      }
    }
  }
  const [first, second] = fitted(x, y);
  return first.map((value, i) => [value, second[i]]);
}

function fitted(x, y) {
  const middle = (list) => (Math.min(...list) + Math.max(...list)) / 2;
  const [mx, my] = [middle(x), middle(y)];
  const [rx, ry] = [Math.max(...x.map((v) => Math.abs(v - mx)), 1e-6), Math.max(...y.map((v) => Math.abs(v - my)), 1e-6)];
  return [x.map((value) => (value - mx) / rx), y.map((value) => (value - my) / ry)];
}
