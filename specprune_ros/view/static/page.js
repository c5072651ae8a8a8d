// The page of specprune view: live data in by server-sent events, changes out as JSON.
import { Charts } from "./charts.js";
import { Tuning } from "./tuning.js";
import { by, post, say, whole } from "./dom.js";

const STALE_S = { camera: 2.5, kept: 5 }; // age of a picture that is dimmed
const HISTORY = 240;
const NAMES = { absent: "No node", silent: "No news", unconfigured: "Not configured",
  inactive: "Inactive", waiting: "Waiting", running: "Running", fault: "Fault",
  lost: "Page not served" };
const cameras = new Map(); // name -> {camera: shot, kept: shot}
const charts = new Charts(by("chart-latency"), by("chart-tokens"));
const tuning = new Tuning(by("parameters"), by("no-parameters"));
let points = [];
let instruction = null; // in force

function showCondition(condition, status) {
  by("banner").dataset.kind = condition.kind;
  by("state").textContent = NAMES[condition.kind] + (status?.latched ? ", latched" : "")
    + (status?.dry_run ? ", dry run" : "");
  say(by("state-text"), condition.text);
  by("clear-fault").hidden = !(status?.latched && condition.kind === "fault");
  document.body.toggleAttribute("data-stale",
    ["absent", "silent", "lost"].includes(condition.kind));
  document.title = `${NAMES[condition.kind]} – specprune view`;
}

function showTiles(query, sim, queryAge) {
  if (query) {
    const kept = query.tokens_last, dense = query.tokens_dense;
    by("tile-mode").textContent = query.source === "dense" ? "dense" : query.mode;
    by("tile-mode-note").textContent = `${query.method}`
      + (query.dense_refresh ? ", all kept" : "");
    by("tile-tokens").textContent = whole(kept);
    by("tile-tokens-note").textContent = dense
      ? `of ${whole(dense)} enter the last layer` : "enter the last layer";
    by("tile-time").textContent = `${query.total_ms.toFixed(query.total_ms < 100 ? 1 : 0)} ms`;
    by("tile-time-note").textContent = queryAge > 2 ? `${queryAge.toFixed(0)} s ago` : "just now";
    by("tile-flops").textContent = query.flops === null ? "–" : `${(100 * query.flops).toFixed(0)} %`;
    by("tile-flops-note").textContent = "of dense";
  }
  if (sim) {
    by("tile-success").textContent = `${sim.successes} of ${sim.episodes_done}`;
    by("tile-success-note").textContent = "episodes of the simulator";
    by("episode").hidden = false;
    by("episode-text").textContent = `Episode ${sim.episode}: step ${sim.step} of ${sim.max_steps}`
      + (sim.done ? (sim.success ? ", done: success" : ", done: no success") : "");
    by("episode-steps").max = Math.max(1, sim.max_steps);
    by("episode-steps").value = sim.step;
  } else {
    by("tile-success-note").textContent = "no simulator";
    by("episode").hidden = true;
  }
}

function showCounters(status) {
  const list = by("counters");
  if (!status) { list.replaceChildren(); return; }
  const rows = [["Queries", status.queries], ["Chunks", status.chunks],
    ["Refused by the guard", status.rejected], ["Failed queries", status.failures],
    ["Dense in their place", status.dense_fallbacks], ["Hold chunks", status.holds],
    ["Faults", status.faults], ["Revision", status.revision]];
  const ages = status.inputs.map((input) =>
    `${input.name} ${input.age === null ? "nothing yet" : `${input.age.toFixed(2)} s`}`);
  const long = [["Age of inputs", ages.join(", ")], ["Last refusal", status.last_rejection]];
  const text = JSON.stringify([rows, long]);
  if (list.dataset.text === text) return;
  list.dataset.text = text;
  list.replaceChildren(...rows.map(([name, value]) => counter(name, value)),
    ...long.filter(([, value]) => value).map(([name, value]) => counter(name, value, "whole")));
}

function counter(name, value, kind = "") {
  const row = document.createElement("div");
  row.className = kind;
  const term = row.appendChild(document.createElement("dt"));
  term.textContent = name;
  row.appendChild(document.createElement("dd")).textContent = value;
  return row;
}

function shot(camera, which, caption) {
  const figure = document.createElement("figure");
  const box = figure.appendChild(document.createElement("div"));
  box.className = "shot";
  const image = box.appendChild(document.createElement("img"));
  image.alt = which === "camera" ? `Camera ${camera}` : `Kept patches of camera ${camera}`;
  image.hidden = true;
  const note = box.appendChild(document.createElement("p"));
  note.className = "note";
  figure.appendChild(document.createElement("figcaption")).textContent = caption;
  const entry = { figure, box, image, note, shown: 0, loading: false };
  image.addEventListener("load", () => { entry.loading = false; image.hidden = false; });
  image.addEventListener("error", () => { entry.loading = false; image.hidden = true; });
  return entry;
}

function showCameras(pictures, query, queryAge) {
  by("no-cameras").hidden = Object.keys(pictures).length > 0 || cameras.size > 0;
  for (const [name, found] of Object.entries(pictures)) {
    if (!cameras.has(name)) addCamera(name);
    const entry = cameras.get(name);
    const counts = query?.cameras[name];
    // Nobody looked at the newest query where the picture is older: the numbers are not its own.
    const older = found.kept && found.kept.age > queryAge + 1;
    say(entry.kept.figure.lastChild, older ? "kept patches of an earlier query"
      : counts ? `kept: ${counts.kept} of ${counts.tokens_in} patches` : "kept patches");
    for (const which of ["camera", "kept"]) refresh(entry[which], name, which, found[which]);
  }
}

function addCamera(name) {
  const entry = { camera: shot(name, "camera", "camera"), kept: shot(name, "kept", "kept patches") };
  const box = document.createElement("div");
  box.className = "camera";
  box.appendChild(document.createElement("h3")).textContent = name;
  const pair = box.appendChild(document.createElement("div"));
  pair.className = "pair";
  pair.append(entry.camera.figure, entry.kept.figure);
  by("cameras").append(box);
  cameras.set(name, entry);
}

function refresh(entry, name, which, facts) {
  if (!facts) { say(entry.note, which === "camera" ? "waiting for a picture" : "drawn at the next query"); return; }
  if (facts.trouble) { say(entry.note, facts.trouble); return; }
  const stale = facts.age > STALE_S[which];
  entry.box.classList.toggle("stale", stale);
  say(entry.note, stale ? `${facts.age.toFixed(0)} s old` : "");
  // One request at a time, so that a slow link drops pictures instead of queueing them.
  if (facts.n === entry.shown || entry.loading) return;
  entry.shown = facts.n;
  entry.loading = true;
  entry.image.src = `/picture/${encodeURIComponent(name)}/${which}.jpg?n=${facts.n}`;
}

function showTask(status, parameters) {
  const now = status?.instruction ?? "";
  const field = by("instruction");
  if (now !== instruction && document.activeElement !== field) field.value = now;
  instruction = now;
  const usable = Object.keys(parameters).length > 0;
  for (const id of ["set-instruction", "reset-episode"]) by(id).disabled = !usable;
}

function show(data) {
  if (data.points.length) points = [...points, ...data.points].slice(-HISTORY);
  const query = points.at(-1);
  showCondition(data.condition, data.status);
  showTiles(query, data.sim, data.query_age);
  showCounters(data.status);
  showCameras(data.pictures, query, data.query_age);
  showTask(data.status, data.parameters);
  tuning.show(data.parameters);
  if (data.points.length) charts.draw(points);
  say(by("chart-age"), data.query_age === null ? "No query so far."
    : data.query_age > STALE_S.kept ? `The newest is ${data.query_age.toFixed(0)} s old.` : "");
}

function listen() {
  const events = new EventSource("/api/events");
  events.addEventListener("open", () => { points = []; });
  events.addEventListener("message", (event) => show(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    showCondition({ kind: "lost", text: "specprune view has ended or cannot be reached; trying "
      + "again. What is shown is old." }, null);
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

by("task").addEventListener("submit", async (event) => {
  event.preventDefault();
  await post("/api/parameters", { instruction: by("instruction").value }, by("task-answer"),
    "The instruction is set; a new episode begins.");
});
by("instruction").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); by("task").requestSubmit(); }
  if (event.key === "Escape") { event.target.value = instruction ?? ""; event.target.blur(); }
});
by("reset-episode").addEventListener("click", () =>
  post("/api/reset_episode", {}, by("task-answer"), "A new episode begins."));
by("clear-fault").addEventListener("click", () =>
  post("/api/clear_fault", {}, by("banner-answer"), "The fault is cleared."));
by("facts").textContent = location.host;
listen();
