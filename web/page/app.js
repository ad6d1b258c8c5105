// The page: tabs, the device, and the panels, each in a file of its own. Everything that takes long
// is computed in workers.

import { Computing } from "./computing.js";
import { explore } from "./explore.js";
import { staircase } from "./staircase.js";
import { positions } from "./positions.js";
import { subwords } from "./subwords.js";
import { generate } from "./generate.js";
import { yours } from "./yours.js";

const notice = document.getElementById("notice");

/** Shows what went wrong, in a sentence. */
export function tell(error) {
  notice.textContent = error.name === "DeviceLost" ? `${error.message}. Load the page again to go on.` : error.message;
  notice.hidden = false;
}

const tabs = [...document.querySelectorAll("[role=tab]")];

function show(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    const panel = document.getElementById(other.getAttribute("aria-controls"));
    panel.hidden = !chosen;
    if (chosen) panel.dispatchEvent(new Event("shown"));
  }
  const name = tab.getAttribute("aria-controls");
  if (location.hash.slice(1) !== name) history.replaceState(null, "", `#${name}`);
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
    const text = `${value.toLocaleString("en")}${slider.dataset.unit ? ` ${slider.dataset.unit}` : ""}`;
    slider.closest("label").querySelector("output").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  slider.addEventListener("input", say);
  say();
}

const device = document.getElementById("device");
// One worker for the GPU and what follows the sliders, one for what takes the CPU long.
const engine = new Computing("explore"), oracle = new Computing("explore");
const inputs = engine.call("load");
const reference = oracle.call("load");
const opened = inputs
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
inputs.catch(tell);
reference.catch(tell);

// For tests: what a call of the module gives.
window.prflash = { engine, oracle, opened, inputs };

explore({ engine, oracle, inputs, reference, opened, tell });
staircase({ oracle, reference, tell });
positions({ oracle, tell });

// The panels on text have a module of their own, which is loaded when one of them is looked at.
let text = null;
const withText = () => {
  if (!text) {
    text = new Computing("text");
    window.prflash.text = text;
  }
  return text;
};
subwords({ withText, tell });
generate({ withText, opened, tell });
yours({ opened, tell });

const asked = tabs.find((tab) => tab.getAttribute("aria-controls") === location.hash.slice(1));
show(asked ?? tabs[0]);

// Once it was loaded, the page needs no network.
if ("serviceWorker" in navigator && window.isSecureContext) {
  navigator.serviceWorker.register("./offline.js").catch(() => {});
}
