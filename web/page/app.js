// The page: tabs, the device, and the panels, each in a file of its own. Everything that takes long
// is computed in workers. What the first picture doesn't need begins once it is there.

import { grouped } from "./chart.js";
import { Computing } from "./computing.js";
import { Inputs } from "./inputs.js";
import { explore } from "./explore.js";

const notice = document.getElementById("notice");

/** Shows what went wrong, in a sentence. */
export function tell(error) {
  notice.textContent = error.name === "DeviceLost" ? `${error.message}. Load the page again to go on.` : error.message;
  notice.hidden = false;
}

// What index.html has begun with. One worker for the GPU and what follows the sliders, one for what
// takes the CPU long; one for the panels on text, with a module of its own.
const { begun } = window;
const engine = new Computing("explore", begun), oracle = new Computing("explore", { compiled: begun.compiled });
const texts = new Computing("text");

const inputs = new Inputs([null, begun.inputs]);

/** After the browser had time to show what was drawn; in a tab that nobody sees, it shows nothing. */
const painted = () => new Promise((resolve) => {
  requestAnimationFrame(() => setTimeout(resolve));
  setTimeout(resolve, 250);
});
let drawn;
const first = new Promise((resolve) => { drawn = resolve; }).then(painted);

const device = document.getElementById("device");
const opened = first
  .then(() => engine.call("open"))
  .then(
    (described) => {
      const found = JSON.parse(described), { adapter, device_type } = found;
      device.textContent = `${adapter || "Your GPU"}${device_type === "Cpu" ? " (in software)" : ""}, through WebGPU`;
      device.classList.add("open");
      return found;
    },
    (error) => {
      device.textContent = "No GPU";
      device.classList.add("shut");
      tell(error);
      return null;
    },
  );

// For tests: what a call of the module gives.
window.prflash = { engine, oracle, text: texts, opened, inputs };

explore({ engine, oracle, inputs, opened, drawn, first, tell });

let others = null;
/** The other panels, whose files are fetched when one is looked at, and once the first picture is there. */
function begin() {
  others ??= import("./panels.js").then(
    ({ panels }) => panels({ oracle, texts, inputs, opened, tell }),
    (error) => { others = null; throw error; },
  );
  return others;
}
first.then(begin).catch(tell);

const tabs = [...document.querySelectorAll("[role=tab]")];

async function show(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  const name = tab.getAttribute("aria-controls"), panel = document.getElementById(name);
  if (location.hash.slice(1) !== name) history.replaceState(null, "", `#${name}`);
  try {
    if (name !== "explore") await begin();
  } catch (error) { tell(error); }
  if (!panel.hidden) panel.dispatchEvent(new Event("shown"));
}

for (const [at, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    show(next);
  });
}

// Sliders say their number, with its unit.
for (const slider of document.querySelectorAll(".slider input")) {
  const say = () => {
    const value = slider.dataset.power ? slider.dataset.power ** slider.value : Number(slider.value);
    const text = `${grouped(value)}${slider.dataset.unit ? ` ${slider.dataset.unit}` : ""}`;
    slider.closest("label").querySelector("output").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  slider.addEventListener("input", say);
  say();
}

const asked = tabs.find((tab) => tab.getAttribute("aria-controls") === location.hash.slice(1));
show(asked ?? tabs[0]);

// Once it was loaded, the page needs no network. Its other files come when nobody waits for the first ones.
if ("serviceWorker" in navigator && window.isSecureContext) {
  first.then(() => setTimeout(() => navigator.serviceWorker.register("./offline.js").catch(() => {}), 2000));
}
