// Keeps the page's files for when there is no network. What the network has goes first, so that a
// newer page is never hidden by an older one.

const NAME = "prflash 1";
const FILES = [
  "./", "index.html", "style.css", "icon.svg", "app.js", "computing.js", "inputs.js", "chart.js", "explore.js", "staircase.js",
  "panels.js", "positions.js", "subwords.js", "generate.js", "yours.js", "layer0.bin", "layer25.bin", "persuasion.txt",
  "wasm/explore.js", "wasm/explore_bg.wasm", "wasm/device.js", "wasm/device_bg.wasm", "wasm/text.js", "wasm/text_bg.wasm",
];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll([...new Set(FILES)])).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = caches.keys().then((names) => Promise.all(names.filter((name) => name !== NAME).map((name) => caches.delete(name))));
  event.waitUntil(old.then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || new URL(event.request.url).origin !== self.location.origin) return;
  event.respondWith(fetch(event.request).catch(async () => (await caches.match(event.request)) ?? Response.error()));
});
