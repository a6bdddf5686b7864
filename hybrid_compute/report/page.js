// What a recording's page does: draws its columns, at any zoom, in the time of a frame.
//
// Times are ticks of `data.tick_ns` nanoseconds. An attempt is a place in the columns; a row is one
// track of a lane, whose attempts do not overlap and stand in order of time. Each row has levels:
// of eight attempts, of sixty-four, and so on, each with its busiest task; drawn is the level whose
// pieces are about a pixel wide, so a frame costs as much for a million attempts as for a thousand.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const column = (text, Kind) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Kind(bytes.buffer);
  };
  const count = data.count;
  const begin = column(data.begin, Uint32Array), took = column(data.took, Uint32Array);
  const submitted = column(data.submitted, Uint32Array), ids = column(data.id, Uint32Array);
  const task = column(data.task, Uint16Array), track = column(data.track, Uint16Array);
  const outcome = column(data.outcome, Uint8Array);
  const predicted = data.predicted ? column(data.predicted, Uint32Array) : null;
  const NOTHING = 4294967295, OK = 0, FAILED = 1, RETRIED = 2, CANCELLED = 3, UNFINISHED = 4;
  const neverBegan = new Set(data.waits);
  const ends = new Float64Array(count);
  for (let i = 0; i < count; i++) ends[i] = begin[i] + took[i];
  const length = Math.max(1, data.length);

  // Colours: told apart by those who see few, and none of them like a failure.
  const PALETTE = {
    light: ["#3c6fd6", "#159a84", "#8557cf", "#5e9128", "#c4559c", "#2b9cc4", "#7c6a52", "#4a4fb5", "#a3a33b", "#6d7f95"],
    dark: ["#6c9bff", "#3cc4ab", "#ad86f2", "#8fc451", "#e283bf", "#5cc4e8", "#b09c80", "#8f94f0", "#cfcf63", "#9badc4"],
  };
  let dark = false, css = {}, colours = [];
  const colourOf = (i) => {
    const few = PALETTE[dark ? "dark" : "light"];
    return i < few.length ? few[i] : `hsl(${150 + ((i * 137.5) % 180)} ${dark ? "35% 65%" : "32% 48%"})`;
  };

  // Words.
  const number = (x) => (x >= 100 ? Math.round(x).toLocaleString("en") : String(+x.toPrecision(3)));
  const time = (ticks, digits = 3) => {
    const s = (ticks * data.tick_ns) / 1e9, a = Math.abs(s);
    const [factor, unit] = a >= 1 || a === 0 ? [1, "s"] : a >= 1e-3 ? [1e3, "ms"] : a >= 1e-6 ? [1e6, "µs"] : [1e9, "ns"];
    const value = s * factor;
    return (Math.abs(value) >= 10 ** digits ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(digits))) + " " + unit;
  };
  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
  const laneName = (lane) => lane.name ?? (lane.executor === null ? "refused by all" : "");

  // Rows.
  const shown = new Uint8Array(Math.max(1, data.tasks.length)).fill(1);
  const rows = [];
  let y = 4;
  for (const lane of data.lanes) {
    lane.height = lane.tracks > 48 ? 4 : lane.tracks > 12 ? 7 : lane.tracks > 4 ? 11 : 17;
    lane.y = y;
    const lists = Array.from({ length: lane.tracks }, () => []);
    for (let i = lane.first; i < lane.first + lane.count; i++) lists[track[i]].push(i);
    lists.forEach((list, t) => {
      const items = Uint32Array.from(list);
      rows.push({ lane, y: y + t * (lane.height + 1), height: lane.height, items, issues: items.filter((i) => outcome[i] !== OK), levels: [] });
    });
    y += Math.max(20, lane.tracks * (lane.height + 1)) + 4;
  }
  const totalHeight = y + 4;
  const issues = Uint32Array.from({ length: count }, (_, i) => i).filter((i) => outcome[i] !== OK && outcome[i] !== CANCELLED).sort((a, b) => begin[a] - begin[b]);

  const FACTOR = 8;
  const buildLevels = (row) => {
    row.levels = [];
    let below = null;
    let size = row.items.length;
    while (size > FACTOR * 4) {
      const groups = Math.ceil(size / FACTOR);
      const level = { from: new Float64Array(groups), to: new Float64Array(groups), busy: new Float64Array(groups), task: new Uint16Array(groups), most: new Float64Array(groups) };
      for (let g = 0; g < groups; g++) {
        const votes = new Map();
        const last = Math.min(size, (g + 1) * FACTOR);
        for (let k = g * FACTOR; k < last; k++) {
          let busy, which, weight, from, to;
          if (below) {
            busy = below.busy[k]; which = below.task[k]; weight = below.most[k]; from = below.from[k]; to = below.to[k];
          } else {
            const i = row.items[k];
            from = begin[i]; to = ends[i]; which = task[i];
            busy = shown[which] ? took[i] : 0; weight = busy;
          }
          if (k === g * FACTOR) level.from[g] = from;
          level.to[g] = to;
          level.busy[g] += busy;
          votes.set(which, (votes.get(which) || 0) + weight);
        }
        for (const [which, weight] of votes) if (weight >= level.most[g]) { level.most[g] = weight; level.task[g] = which; }
      }
      row.levels.push(level);
      below = level;
      size = groups;
    }
  };

  // Curves: each is a sorted column, so that a value at any time is a search.
  const atMost = (sorted, value) => {
    let low = 0, high = sorted.length;
    while (low < high) { const mid = (low + high) >> 1; if (sorted[mid] <= value) low = mid + 1; else high = mid; }
    return low;
  };
  const sortedOf = (values) => Float64Array.from(values).sort();
  const startedAll = [], leftQueue = [], endedRuns = [], over = [];
  for (let i = 0; i < count; i++) {
    leftQueue.push(begin[i]);
    if (!neverBegan.has(i)) { startedAll.push(begin[i]); endedRuns.push(ends[i]); }
    if (outcome[i] !== RETRIED) over.push(i);
  }
  const curves = { submitted: sortedOf(submitted), left: sortedOf(leftQueue), started: sortedOf(startedAll), ended: sortedOf(endedRuns) };
  over.sort((a, b) => ends[a] - ends[b]);
  const overAt = Float64Array.from(over, (i) => ends[i]);
  const overCalls = new Float64Array(over.length + 1);
  over.forEach((i, k) => { overCalls[k + 1] = overCalls[k] + (data.calls[i] ?? 1); });
  const queuedAt = (t) => atMost(curves.submitted, t) - atMost(curves.left, t);
  const runningAt = (t) => atMost(curves.started, t) - atMost(curves.ended, t);
  const callsBetween = (a, b) => overCalls[atMost(overAt, b)] - overCalls[atMost(overAt, a)];

  // The view.
  const view = { from: 0, to: length };
  let width = 0, gutter = 170, pointer = null, pending = false, drawn = 0, frameMs = 0;
  const canvases = { overview: $("overview"), charts: $("charts"), timeline: $("timeline") };
  const lanesBox = $("lanes");
  const X = (t) => gutter + ((t - view.from) / (view.to - view.from)) * (width - gutter);
  const T = (x) => view.from + ((x - gutter) / (width - gutter)) * (view.to - view.from);
  const smallest = Math.max(20, 2000 / data.tick_ns);
  const look = (from, to) => {
    let span = Math.min(length * 1.02, Math.max(smallest, to - from));
    const middle = (from + to) / 2;
    from = middle - span / 2;
    from = Math.max(-0.01 * length, Math.min(from, 1.01 * length - span));
    view.from = from; view.to = from + span;
    draw();
  };
  const zoom = (factor, at = (view.from + view.to) / 2) => look(at - (at - view.from) * factor, at + (view.to - at) * factor);
  const pan = (part) => { const d = (view.to - view.from) * part; look(view.from + d, view.to + d); };
  const everything = () => look(-0.005 * length, 1.005 * length);
  const draw = () => { if (!pending) { pending = true; requestAnimationFrame(paint); } };

  const ready = (canvas, height) => {
    const scale = window.devicePixelRatio || 1;
    const w = Math.round(width * scale), h = Math.round(height * scale);
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; canvas.style.height = height + "px"; }
    const g = canvas.getContext("2d");
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = '11.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
    g.textBaseline = "middle";
    return g;
  };
  const cut = (g, text, room) => {
    if (g.measureText(text).width <= room) return text;
    while (text.length > 1 && g.measureText(text + "…").width > room) text = text.slice(0, -1);
    return text + "…";
  };
  const stepOf = (span, most) => {
    // Round in nanoseconds, not in ticks.
    const rough = (span * data.tick_ns) / most, power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) / data.tick_ns;
  };
  let hatch = null;
  const makeHatch = () => {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const g = tile.getContext("2d");
    g.strokeStyle = css.warn; g.lineWidth = 2;
    g.beginPath(); g.moveTo(-1, 7); g.lineTo(7, -1); g.moveTo(-1, 1); g.lineTo(1, -1); g.moveTo(5, 7); g.lineTo(7, 5); g.stroke();
    hatch = g.createPattern(tile, "repeat");
  };

  const paintRow = (g, row, top, bottom, shift) => {
    const ry = row.y - shift, h = row.height, items = row.items;
    if (ry > bottom || ry + h < top || !items.length) return;
    // Both begins and ends rise within a row.
    let a = 0, b = items.length;
    for (let low = 0, high = items.length; low < high;) { const m = (low + high) >> 1; if (ends[items[m]] < view.from) low = m + 1; else high = m; a = low; }
    for (let low = a, high = items.length; low < high;) { const m = (low + high) >> 1; if (begin[items[m]] <= view.to) low = m + 1; else high = m; b = low; }
    const room = width - gutter;
    let level = 0, size = 1;
    while ((b - a) / size > 2 * room && level < row.levels.length) { level++; size *= FACTOR; }
    if (level === 0) {
      let lastEdge = -1, lastTask = -1;
      for (let k = a; k < b; k++) {
        const i = items[k], which = task[i];
        const x0 = X(begin[i]), x1 = Math.max(x0 + 1, X(ends[i]));
        if (x1 - lastEdge < 0.7 && which === lastTask) continue;
        const from = Math.max(x0, gutter, Math.min(lastEdge, x1 - 0.7)), w = Math.min(x1, width) - from;
        lastEdge = x1; lastTask = which;
        if (!shown[which]) { g.fillStyle = css.line; g.fillRect(from, ry + h * 0.3, w, h * 0.4); continue; }
        drawn++;
        g.fillStyle = colours[which];
        if (outcome[i] === CANCELLED) g.globalAlpha = 0.35;
        // A hair between neighbours, once there is room for one.
        g.fillRect(from, ry, w > 4 ? w - 1 : w, h);
        g.globalAlpha = 1;
        if (w > 46 && h >= 11) {
          g.fillStyle = dark ? "#0c1017" : "#fff";
          g.fillText(cut(g, data.tasks[which], w - 10), from + 5, ry + h / 2 + 0.5);
        }
      }
    } else {
      const l = row.levels[level - 1];
      for (let k = Math.floor(a / size); k < Math.ceil(b / size); k++) {
        const x0 = Math.max(gutter, X(l.from[k])), x1 = Math.min(width, Math.max(x0 + 0.8, X(l.to[k])));
        if (x1 < gutter || l.busy[k] <= 0) continue;
        drawn++;
        g.globalAlpha = Math.min(1, 0.25 + (0.75 * l.busy[k]) / Math.max(1, l.to[k] - l.from[k]));
        g.fillStyle = colours[l.task[k]];
        g.fillRect(x0, ry, x1 - x0, h);
      }
      g.globalAlpha = 1;
    }
    let last = -9;
    for (let k = lowestIssue(row.issues); k < row.issues.length; k++) {
      const i = row.issues[k], kind = outcome[i];
      if (begin[i] > view.to) break;
      if (kind === CANCELLED || !shown[task[i]]) continue;
      const x0 = Math.max(gutter, X(begin[i])), w = Math.max(2.5, Math.min(width, X(ends[i])) - x0);
      if (x0 + w - last < 1) continue;
      last = x0 + w;
      if (kind === RETRIED) {
        if (w > 6) { g.fillStyle = hatch; g.fillRect(x0, ry, w, h); }
        g.fillStyle = css.warn;
        g.fillRect(x0, ry + h - Math.max(2, h / 5), w, Math.max(2, h / 5));
      } else {
        g.fillStyle = css.bad;
        g.fillRect(x0, ry, w, h);
        if (w > 14 && h >= 11) {
          g.fillStyle = dark ? "#0c1017" : "#fff";
          g.fillText(cut(g, (kind === UNFINISHED ? "… " : "✕ ") + data.tasks[task[i]], w - 8), x0 + 4, ry + h / 2 + 0.5);
        }
      }
      drawn++;
    }
  };
  const lowestIssue = (list) => {
    let low = 0, high = list.length;
    while (low < high) { const m = (low + high) >> 1; if (ends[list[m]] < view.from) low = m + 1; else high = m; }
    return low;
  };

  const paintTimeline = () => {
    const height = Math.min(totalHeight, Math.max(120, Math.round(window.innerHeight * 0.62)));
    $("space").style.height = totalHeight + "px";
    const g = ready(canvases.timeline, height), shift = lanesBox.scrollTop;
    paintGrid(g, height);
    g.save();
    g.beginPath(); g.rect(gutter, 0, width - gutter, height); g.clip();
    for (const row of rows) paintRow(g, row, 0, height, shift);
    g.restore();
    let before = null;
    for (const lane of data.lanes) {
      const ly = lane.y - shift, lh = Math.max(20, lane.tracks * (lane.height + 1));
      if (lane.executor !== before) {
        if (before !== null) { g.fillStyle = css.line; g.fillRect(0, Math.round(ly - 3), width, 1); }
      }
      if (ly < height && ly + lh > 0) {
        const executor = lane.executor ?? "nobody", first = lane.executor !== before;
        g.font = `600 ${g.font.replace(/^\d+ /, "")}`;
        const wide = first ? Math.min(g.measureText(executor).width, gutter * 0.55) : 0;
        const middle = ly + Math.min(lh, Math.max(lane.height + 2, 20)) / 2;
        if (first) { g.fillStyle = css.ink; g.fillText(cut(g, executor, gutter * 0.55), 2, middle); }
        g.font = g.font.replace(/^(bold|600) /, "");
        g.fillStyle = css.soft;
        g.textAlign = "right";
        const room = gutter - 16 - wide;
        let name = laneName(lane) + (lane.tracks > 1 ? ` ×${lane.tracks}` : "");
        if (g.measureText(name).width > room) name = "…" + [...name].slice(-Math.max(3, Math.floor(room / 7))).join("");
        g.fillText(name, gutter - 8, middle);
        g.textAlign = "left";
      }
      before = lane.executor;
    }
    paintPointer(g, height);
  };
  const paintGrid = (g, height) => {
    const step = stepOf(view.to - view.from, (width - gutter) / 110);
    g.fillStyle = css.faint;
    for (let t = Math.ceil(view.from / step) * step; t <= view.to; t += step) g.fillRect(Math.round(X(t)), 0, 1, height);
  };
  const paintPointer = (g, height) => {
    if (!pointer || pointer.x < gutter) return;
    g.fillStyle = css.soft; g.globalAlpha = 0.6;
    g.fillRect(Math.round(pointer.x), 0, 1, height);
    g.globalAlpha = 1;
  };

  const paintCharts = () => {
    const height = 178, g = ready(canvases.charts, height), room = width - gutter;
    paintGrid(g, height - 18);
    const panel = (top, tall, label, most, unit) => {
      g.fillStyle = css.ink; g.font = g.font.replace(/^/, "600 "); g.fillText(label, 2, top + 8); g.font = g.font.replace(/^(bold|600) /, "");
      g.fillStyle = css.soft; g.textAlign = "right";
      g.fillText(number(most) + unit, gutter - 8, top + 8); g.fillText("0", gutter - 8, top + tall - 5);
      g.textAlign = "left";
      g.fillStyle = css.line; g.fillRect(gutter, Math.round(top + tall), room, 1);
    };
    // Queued and running: a value for each pixel.
    const queued = new Float64Array(room + 1), running = new Float64Array(room + 1);
    for (let x = 0; x <= room; x++) {
      const t = T(gutter + x);
      queued[x] = queuedAt(t); running[x] = runningAt(t);
    }
    const area = (values, top, tall, label) => {
      const most = values.reduce((a, b) => Math.max(a, b), 1);
      g.beginPath(); g.moveTo(gutter, top + tall);
      for (let x = 0; x <= room; x++) g.lineTo(gutter + x, top + tall - (values[x] / most) * (tall - 4));
      g.lineTo(width, top + tall); g.closePath();
      g.fillStyle = css.accent; g.globalAlpha = 0.2; g.fill(); g.globalAlpha = 1;
      g.strokeStyle = css.accent; g.lineWidth = 1.2; g.stroke();
      panel(top, tall, label, most, "");
    };
    area(queued, 4, 44, "queued");
    area(running, 56, 44, "running");
    // Throughput: a bar for each few pixels.
    const bar = 5, bars = Math.ceil(room / bar), values = new Float64Array(bars);
    const seconds = ((T(gutter + bar) - T(gutter)) * data.tick_ns) / 1e9;
    let top = 0;
    for (let k = 0; k < bars; k++) {
      values[k] = callsBetween(T(gutter + k * bar), T(gutter + (k + 1) * bar)) / seconds;
      top = Math.max(top, values[k]);
    }
    g.fillStyle = css.accent;
    for (let k = 0; k < bars; k++) if (values[k]) { const h = Math.max(1, (values[k] / top) * 42); g.fillRect(gutter + k * bar, 154 - h, bar - 1, h); }
    panel(108, 46, "throughput", top, "/s");
    // The axis.
    const step = stepOf(view.to - view.from, room / 110);
    g.fillStyle = css.soft; g.textAlign = "center";
    const digits = Math.max(3, Math.ceil(Math.log10(Math.max(1, Math.abs(view.to) / step))) + 1);
    for (let t = Math.ceil(Math.max(view.from, 0) / step) * step; t <= view.to; t += step) {
      const x = X(t);
      if (x > gutter + 14 && x < width - 22) g.fillText(time(t, digits), x, 168);
    }
    g.textAlign = "left";
    paintPointer(g, height - 18);
  };

  let overviewImage = null;
  const paintOverview = () => {
    const height = 34, g = ready(canvases.overview, height), room = width - gutter;
    const at = (x) => (x / room) * 1.01 * length - 0.005 * length;
    if (!overviewImage) {
      const heights = new Float64Array(room);
      let most = 1;
      for (let x = 0; x < room; x++) { heights[x] = runningAt(at(x + 0.5)); most = Math.max(most, heights[x]); }
      const marks = new Uint8Array(room);
      for (const i of issues) {
        const x = Math.min(room - 1, Math.max(0, Math.round(((ends[i] + 0.005 * length) / (1.01 * length)) * room)));
        marks[x] = Math.max(marks[x], outcome[i] === RETRIED ? 1 : 2);
      }
      overviewImage = { heights, most, marks };
    }
    const { heights, most, marks } = overviewImage;
    g.fillStyle = css.faint; g.fillRect(gutter, 0, room, height);
    g.fillStyle = css.soft; g.fillText("whole run", 2, 17);
    g.globalAlpha = 0.55;
    for (let x = 0; x < room; x++) { const h = (heights[x] / most) * (height - 8); if (h) g.fillRect(gutter + x, height - h, 1, h); }
    g.globalAlpha = 1;
    for (let x = 0; x < room; x++) if (marks[x]) { g.fillStyle = marks[x] === 2 ? css.bad : css.warn; g.fillRect(gutter + x - 0.5, 0, 2, 7); }
    const place = (t) => gutter + ((t + 0.005 * length) / (1.01 * length)) * room;
    const x0 = Math.max(gutter, place(view.from)), x1 = Math.min(width, place(view.to));
    g.fillStyle = css.accent; g.globalAlpha = 0.14; g.fillRect(x0, 0, Math.max(2, x1 - x0), height); g.globalAlpha = 1;
    g.strokeStyle = css.accent; g.lineWidth = 1.5; g.strokeRect(x0 + 0.75, 0.75, Math.max(2, x1 - x0) - 1.5, height - 1.5);
  };

  const paint = () => {
    pending = false;
    const before = performance.now();
    drawn = 0;
    paintOverview(); paintCharts(); paintTimeline();
    frameMs = performance.now() - before;
    const from = Math.max(0, view.from), to = Math.min(length, view.to);
    $("window").textContent = `${time(from)} – ${time(to)}  (${time(to - from)})`;
    document.documentElement.dataset.drawn = drawn;
  };

  // Hovering.
  const findAt = (x, py) => {
    const t = T(x), near = (3 / (width - gutter)) * (view.to - view.from);
    const yy = py + lanesBox.scrollTop;
    const row = rows.find((r) => yy >= r.y - 1 && yy <= r.y + r.height + 1);
    if (!row) return -1;
    const items = row.items;
    let low = 0, high = items.length;
    while (low < high) { const m = (low + high) >> 1; if (begin[items[m]] <= t + near) low = m + 1; else high = m; }
    let best = -1, far = near;
    for (let k = low - 1; k >= Math.max(0, low - 40); k--) {
      const i = items[k], d = Math.max(begin[i] - t, t - ends[i], 0);
      if (d > near) break;
      if (best < 0 || d < far || (d === far && outcome[i] !== OK && outcome[best] === OK)) { best = i; far = d; }
    }
    return best;
  };
  const laneOf = (i) => data.lanes.find((lane) => i >= lane.first && i < lane.first + lane.count);
  const about = (i) => {
    const lane = laneOf(i), kind = data.outcomes[outcome[i]];
    const lines = [
      ["ran on", [lane.executor ?? "nobody", laneName(lane)].filter(Boolean).join(" · ")],
      ["item", `#${ids[i]}` + (data.attempt[i] ? `, attempt ${data.attempt[i]}` : "") + (data.calls[i] ? `, ${data.calls[i].toLocaleString("en")} calls` : "")],
      ["at", time(begin[i], 6)],
      ["waited", time(begin[i] - submitted[i])],
      [neverBegan.has(i) ? "never began" : "took", neverBegan.has(i) ? "" : time(took[i])],
    ];
    if (predicted && predicted[i] !== NOTHING) lines.push(["predicted", `${time(predicted[i])}, came ${time(ends[i] - submitted[i])}`]);
    if (data.error[i] !== undefined) lines.push(["error", data.errors[data.error[i]]]);
    const state = kind === "ok" ? "" : ` <span class="${kind}">${kind}</span>`;
    return `<b>${escape(data.tasks[task[i]])}</b>${state}<table>` + lines.map(([k, v]) => `<tr><td>${k}</td><td>${escape(v)}</td></tr>`).join("") + "</table>";
  };
  const tip = $("tip");
  const show = (html, event) => {
    tip.innerHTML = html; tip.hidden = false;
    const w = tip.offsetWidth, h = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, window.innerWidth - w - 8)) + "px";
    tip.style.top = (event.clientY + 18 + h > window.innerHeight ? Math.max(4, event.clientY - h - 12) : event.clientY + 18) + "px";
  };
  const hide = () => { tip.hidden = true; };

  let moving = null;
  const hover = (canvas, what) => {
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      pointer = { x: event.clientX - box.left };
      if (moving) { const d = ((moving.x - event.clientX) / (width - gutter)) * (moving.to - moving.from); look(moving.from + d, moving.to + d); hide(); }
      else { const html = what(event.clientX - box.left, event.clientY - box.top); if (html) show(html, event); else hide(); draw(); }
    });
    canvas.addEventListener("pointerleave", () => { pointer = null; hide(); draw(); });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button || event.offsetX < gutter) return;
      moving = { x: event.clientX, from: view.from, to: view.to };
      canvas.setPointerCapture(event.pointerId); lanesBox.classList.add("moving");
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { moving = null; lanesBox.classList.remove("moving"); });
    canvas.addEventListener("dblclick", (event) => zoom(0.4, T(event.offsetX)));
    canvas.addEventListener("wheel", (event) => {
      const box = canvas.getBoundingClientRect();
      if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY * 0.004))), T(event.clientX - box.left)); }
      else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) { event.preventDefault(); pan((event.shiftKey ? event.deltaY || event.deltaX : event.deltaX) / (width - gutter)); }
    }, { passive: false });
  };
  hover(canvases.timeline, (x, py) => { if (x < gutter) return ""; const i = findAt(x, py); return i < 0 ? "" : about(i); });
  hover(canvases.charts, (x) => {
    if (x < gutter) return "";
    const t = T(x), half = (T(gutter + 2.5) - T(gutter));
    const rate = callsBetween(t - half, t + half) / ((2 * half * data.tick_ns) / 1e9);
    return `<b>${time(t, 6)}</b><table><tr><td>queued</td><td>${queuedAt(t).toLocaleString("en")}</td></tr><tr><td>running</td><td>${runningAt(t).toLocaleString("en")}</td></tr><tr><td>throughput</td><td>${number(rate)} calls/s</td></tr></table>`;
  });
  lanesBox.addEventListener("scroll", draw);

  // The overview chooses a part.
  const overview = canvases.overview;
  let chosen = null;
  const overviewTime = (x) => ((x - gutter) / (width - gutter)) * 1.01 * length - 0.005 * length;
  overview.addEventListener("pointerdown", (event) => { chosen = overviewTime(event.offsetX); overview.setPointerCapture(event.pointerId); });
  overview.addEventListener("pointermove", (event) => {
    if (chosen === null) return;
    const now = overviewTime(event.offsetX);
    if (Math.abs(now - chosen) > length * 0.003) look(Math.min(now, chosen), Math.max(now, chosen));
  });
  overview.addEventListener("pointerup", (event) => {
    const now = overviewTime(event.offsetX), span = view.to - view.from;
    if (chosen !== null && Math.abs(now - chosen) <= length * 0.003) look(now - span / 2, now + span / 2);
    chosen = null;
  });
  overview.addEventListener("dblclick", everything);

  // Failures, one after the other.
  let issueAt = -1;
  const toIssue = (step) => {
    if (!issues.length) return;
    issueAt = issueAt < 0 ? (step > 0 ? 0 : issues.length - 1) : (issueAt + step + issues.length) % issues.length;
    const i = issues[issueAt], row = rows.find((r) => r.items.includes(i));
    const span = Math.max(smallest, took[i] * 6, Math.min(view.to - view.from, length / 20));
    lanesBox.scrollTop = row.y - lanesBox.clientHeight / 2;
    look(begin[i] + took[i] / 2 - span / 2, begin[i] + took[i] / 2 + span / 2);
    const box = canvases.timeline.getBoundingClientRect();
    show(about(i), { clientX: box.left + (X(begin[i]) + X(ends[i])) / 2, clientY: box.top + row.y - lanesBox.scrollTop + row.height });
  };
  $("issue").disabled = !issues.length;
  $("issue").addEventListener("click", () => toIssue(1));
  $("in").addEventListener("click", () => zoom(0.5));
  $("out").addEventListener("click", () => zoom(2));
  $("all").addEventListener("click", everything);

  const keys = {
    "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), _: () => zoom(1 / 0.6),
    ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2),
    ArrowUp: () => { lanesBox.scrollTop -= 48; }, ArrowDown: () => { lanesBox.scrollTop += 48; },
    0: everything, Home: everything, n: () => toIssue(1), p: () => toIssue(-1), t: () => theme(!dark), Escape: hide,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
    const vertical = event.key === "ArrowUp" || event.key === "ArrowDown";
    if (vertical && !lanesBox.contains(document.activeElement)) return; // the page scrolls
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });

  // The legend.
  const legend = $("legend");
  const MOST = 24;
  const buildLegend = () => {
    legend.replaceChildren();
    data.tasks.slice(0, MOST).forEach((name, i) => {
      const button = document.createElement("button");
      button.type = "button"; button.title = `${name}: click to hide or show, double-click for it alone`;
      button.setAttribute("aria-pressed", String(Boolean(shown[i])));
      const dot = document.createElement("i");
      dot.className = "dot"; dot.style.background = colours[i];
      button.append(dot, name);
      button.addEventListener("click", () => { shown[i] = 1 - shown[i]; refresh(); });
      button.addEventListener("dblclick", () => { const alone = shown.every((v, k) => v === (k === i ? 1 : 0)); shown.fill(alone ? 1 : 0); shown[i] = 1; refresh(); });
      legend.append(button);
    });
    const key = (kind, text) => { const span = document.createElement("span"); span.className = "key"; const dot = document.createElement("i"); dot.className = "dot " + kind; span.append(dot, text); legend.append(span); };
    if (data.tasks.length > MOST) key("", `and ${data.tasks.length - MOST} more`);
    if (outcome.includes(FAILED) || outcome.includes(UNFINISHED)) key("failed", outcome.includes(UNFINISHED) ? "failed or unfinished" : "failed");
    if (outcome.includes(RETRIED)) key("retried", "retried");
    if (outcome.includes(CANCELLED)) key("cancelled", "cancelled");
  };
  const refresh = () => { rows.forEach(buildLevels); for (const [i, b] of [...legend.querySelectorAll("button")].entries()) b.setAttribute("aria-pressed", String(Boolean(shown[i]))); draw(); };

  // The table: by its headings.
  const table = $("where");
  table.querySelectorAll("thead th").forEach((head, place) => {
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      table.querySelectorAll("thead th").forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => { const text = row.cells[place].dataset.sort, n = Number(text); return place < 2 || Number.isNaN(n) ? text : n; };
      const body = table.tBodies[0];
      [...body.rows].sort((a, b) => { const x = value(a), z = value(b); return (x < z ? -1 : x > z ? 1 : 0) * (up ? 1 : -1); }).forEach((row) => body.append(row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });

  // Light and dark.
  const theme = (on) => {
    dark = on;
    document.documentElement.dataset.theme = on ? "dark" : "light";
    const style = getComputedStyle(document.documentElement);
    css = Object.fromEntries(["ink", "soft", "line", "faint", "accent", "bad", "warn", "card"].map((name) => [name, style.getPropertyValue("--" + name).trim()]));
    colours = data.tasks.map((_, i) => colourOf(i));
    document.querySelectorAll("i.dot[data-task]").forEach((dot) => { dot.style.background = colours[+dot.dataset.task]; });
    makeHatch(); buildLegend(); draw();
  };
  const prefers = window.matchMedia("(prefers-color-scheme: dark)");
  prefers.addEventListener("change", (event) => theme(event.matches));
  $("theme").addEventListener("click", () => theme(!dark));

  const measure = () => {
    width = Math.floor($("pictures").clientWidth - 2);
    // The lanes' scroll bar takes room from all, so that times stand above each other.
    gutter = width < 700 ? 110 : 190;
    overviewImage = null;
    draw();
  };
  rows.forEach(buildLevels);
  new ResizeObserver(measure).observe($("pictures"));
  theme(prefers.matches);
  measure();
  everything();
  window.report = { data, view, look, zoom, pan, everything, toIssue, paint, theme, drawn: () => drawn, frameMs: () => frameMs, findAt, about, X, rows };
})();
