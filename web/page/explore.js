// Blocks by a rule: the picture, what they miss, what that costs.

import { newest } from "./computing.js";
import { chart, number, percent } from "./chart.js";

const HEADS = 3;
const DENSE = 0;
const $ = (id) => document.getElementById(id);
const tile = (name) => document.querySelector(`[data-tile="${name}"]`);

export function explore({ engine, oracle, inputs, opened, drawn, first, tell }) {
  let software = false;
  opened.then((device) => {
    software = device?.device_type === "Cpu";
    if (!device) busy("Errors and times need a GPU.");
  });
  const form = $("explore-controls"), canvas = $("blocks"), progress = $("explore-progress");
  let schedule = null, exact = null, errors = null, cursor = null, dense = null;

  const values = () => ({
    layer: Number($("layer").value), tokens: Number($("tokens").value), block: Number($("block").value),
    rule: Number(form.elements.rule.value), budget: Number($("budget").value), alpha: Number($("alpha").value),
    beta: Number($("beta").value), tau: Number($("tau").value), seed: Number($("seed").value),
  });
  const choice = (v) => ({ choice: [v.layer, v.tokens, v.block, v.rule, v.budget, v.alpha, v.beta, v.tau, v.seed] });
  const head = () => Number($("head").value);

  /** The probability or skip of a block, its exact mass, and where it is. */
  const cell = (row, block) => {
    const n = schedule.rows, at = (head() * n + row) * n + block;
    return { p: schedule.picture[at], mass: exact?.key === schedule.key ? exact.mass[at] : NaN };
  };

  function draw() {
    if (!schedule) return;
    const n = schedule.rows, ratio = devicePixelRatio || 1, size = Math.round(canvas.clientWidth * ratio);
    if (!size) return;
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const style = getComputedStyle(document.documentElement), color = (name) => style.getPropertyValue(name).trim();
    const [visited, missed, empty, ink] = ["--accent", "--second", "--empty", "--ink"].map(color);
    const pen = canvas.getContext("2d", { willReadFrequently: true }), each = size / n, gap = each > 8 * ratio ? ratio : each > 4 ? 0.5 * ratio : 0;
    pen.clearRect(0, 0, size, size);
    for (let row = 0; row < n; row++) {
      for (let block = 0; block <= row; block++) {
        const { p, mass } = cell(row, block);
        const box = [block * each, row * each, each - gap, each - gap];
        pen.globalAlpha = 1;
        pen.fillStyle = empty;
        pen.fillRect(...box);
        // Shades by mass, so that one percent of a row can be seen.
        const shade = Number.isFinite(mass) ? Math.min(1, Math.sqrt(mass * 4)) : 0.55;
        if (p > 0) {
          pen.fillStyle = visited;
          pen.globalAlpha = 0.28 + 0.72 * shade;
          pen.fillRect(...box);
        } else if (Number.isFinite(mass)) {
          pen.fillStyle = missed;
          pen.globalAlpha = shade;
          pen.fillRect(...box);
        }
      }
    }
    pen.globalAlpha = 1;
    if (cursor && cursor.row < n) {
      pen.strokeStyle = ink;
      pen.lineWidth = 2 * ratio;
      pen.strokeRect(cursor.block * each, cursor.row * each, each - gap, each - gap);
    }
  }

  function point(row, block) {
    const n = schedule?.rows ?? 0;
    if (!schedule || row < 0 || row >= n || block < 0 || block > row) return;
    cursor = { row, block };
    const { p, mass } = cell(row, block);
    const chance = p > 0 ? (p < 1 ? `visited, drawn with p = ${number(p)}` : "visited for sure")
      : p < 0 ? `not drawn, p was ${number(-p)}` : "not visited";
    const size = values().block, share = Number.isFinite(mass) ? `${percent(mass)} of the row's attention` : "mass not known yet";
    $("block-text").textContent = `Queries ${row * size}–${(row + 1) * size - 1}, keys ${block * size}–${(block + 1) * size - 1}: distance ${row - block}, ${chance}, ${share}.`;
    draw();
  }
  const over = (event) => {
    const box = canvas.getBoundingClientRect(), n = schedule?.rows ?? 1;
    point(Math.floor(((event.clientY - box.top) / box.height) * n), Math.floor(((event.clientX - box.left) / box.width) * n));
  };
  canvas.addEventListener("pointermove", over);
  canvas.addEventListener("pointerdown", over);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !schedule) return;
    event.preventDefault();
    const from = cursor ?? { row: schedule.rows - 1, block: schedule.rows - 1 };
    point(from.row + step[0], from.block + step[1]);
  });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { draw(); drawErrors(); });

  function numbers() {
    if (!schedule) return;
    tile("visited").textContent = percent(schedule.visited / schedule.dense);
    tile("visited-sub").textContent = `${number(schedule.visited / HEADS)} of ${number(schedule.dense / HEADS)} blocks a head`;
    const known = exact?.key === schedule.key;
    if (known) {
      let kept = 0;
      for (let row = 0; row < schedule.rows; row++) {
        for (let block = 0; block <= row; block++) {
          const { p, mass } = cell(row, block);
          if (p > 0) kept += mass;
        }
      }
      schedule.recall = kept / schedule.rows;
      tile("recall").textContent = percent(schedule.recall);
    }
    tile("recall").classList.toggle("waiting", !known);
  }

  function drawErrors() {
    if (!errors?.rows) return;
    const tokens = errors.tokens, of = errors.rows.subarray(head() * tokens, (head() + 1) * tokens);
    const points = [];
    for (let at = 0; at < tokens; at += 8) {
      let sum = 0;
      for (let row = at; row < at + 8; row++) sum += of[row];
      points.push([at + 4, sum / 8]);
    }
    const style = getComputedStyle(document.documentElement);
    chart($("row-chart"), {
      x: { from: 0, to: tokens, title: "query, in tokens" }, y: { from: 1e-8, to: 1, log: true, title: "relative error of a row" },
      lines: [{ points, color: style.getPropertyValue("--c0"), name: "error" }], height: 420,
    });
    tile("error").textContent = number(errors.heads[head()]);
    tile("error").classList.remove("waiting");
  }

  const key = (v) => [v.layer, v.tokens, v.block].join();
  const reschedule = newest(async () => {
    const v = values();
    try {
      schedule = await inputs.call(engine, v.layer, "schedule", [choice(v)]);
      schedule.key = key(v);
      document.body.dataset.checksum = schedule.checksum;
      numbers();
      draw();
    } catch (error) { tell(error); }
    drawn();
  });

  const refer = newest(async () => {
    const v = values();
    if (exact?.key === key(v)) return;
    try {
      tile("recall").textContent = "…";
      const found = await inputs.call(oracle, v.layer, "exact", [choice(v)]);
      exact = { key: key(v), ...found };
      const { output } = found;
      engine.call("compare_with", [choice(v), output], { transfer: [output.buffer] });
      numbers();
      draw();
      rerun();
    } catch (error) { tell(error); }
  });

  const busy = (text) => { $("run-text").textContent = text; };
  const run = async (v, rounds) => {
    const told = ({ label, done, total }) => {
      progress.hidden = done === total;
      progress.max = total;
      progress.value = done;
      if (label) busy(`Compiling ${label}, ${done + 1} of ${total} …`);
    };
    return inputs.call(engine, v.layer, "run", [choice(v), rounds, "progress"], { progress: told });
  };
  // The clock of a GPU in software leaves out what its threads wait for.
  const time = (ran) => (software || ran.gpu === null ? ran.wall : ran.gpu);
  const rerun = newest(async () => {
    if (!(await opened)) return;
    const v = values(), of = `${v.layer},${v.tokens}`;
    try {
      if (dense?.of !== of) {
        tile("time").classList.add("waiting");
        dense = { of, ran: await run({ ...v, rule: DENSE }, 3) };
      }
      tile("error").classList.add("waiting");
      const ran = v.rule === DENSE ? await run(v, 1) : await run(v, 3);
      if (v.rule === DENSE) dense.ran.rows = ran.rows;
      errors = { ...ran, tokens: v.tokens, settings: v };
      drawErrors();
      const [now, then] = [v.rule === DENSE ? time(dense.ran) : time(ran), time(dense.ran)];
      tile("time").textContent = `${number(now)} ms`;
      tile("time-sub").textContent = v.rule === DENSE ? "dense, of a call with 3 heads" : `${number(then / now)}× as fast as dense, ${number(then)} ms`;
      tile("time").classList.remove("waiting");
      busy(`Kernel ${ran.kernel}; ${software || ran.gpu === null ? "times from submission to completion" : "times of the GPU's own clock"}, medians of 3.`);
      document.body.dataset.ran = JSON.stringify({ ...v, heads: ran.heads && [...ran.heads] });
    } catch (error) { busy(""); tell(error); }
  });

  // A rule has the sliders that it reads.
  const used = { alpha: [2, 4], tau: [4], beta: [2, 4], seed: [2, 4], budget: [1, 2, 3, 4] };
  function enable() {
    const { rule, tokens, block } = values();
    for (const [id, rules] of Object.entries(used)) {
      const on = rules.includes(rule);
      $(id).disabled = !on;
      $(id).closest(".slider").classList.toggle("off", !on);
    }
    const most = Math.min(24, tokens / block);
    if (Number($("budget").max) !== most) {
      $("budget").max = most;
      $("budget").dispatchEvent(new Event("input"));
    }
  }
  let timer;
  const soon = (milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(() => { refer(); rerun(); }, milliseconds);
  };
  form.addEventListener("input", () => {
    enable();
    reschedule();
    soon(150);
  });
  $("head").addEventListener("input", () => { numbers(); draw(); drawErrors(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  $("explore").addEventListener("shown", draw);
  enable();
  reschedule();
  // Who chooses something at once is answered first: a browser that compiles kernels in software shows nothing new
  // until it is done.
  first.then(() => { refer(); soon(300); });
}
