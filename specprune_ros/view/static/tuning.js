// Sliders, boxes and choices for the node's parameters.
import { post, say } from "./dom.js";

const OPEN = ["Controller: coarse or fine", "Static pruning"]; // groups that are shown unfolded

export class Tuning {
  constructor(form, empty) {
    this.form = form;
    this.empty = empty;
    this.rows = new Map(); // name -> {show(value), busy}
    form.addEventListener("submit", (event) => event.preventDefault());
    this.ready = fetch("/api/parameters").then((answer) => answer.json())
      .then((rows) => this.build(rows));
  }

  build(rows) {
    const groups = new Map();
    for (const row of rows) {
      const made = this.row(row);
      if (row.name === "pruning") { this.form.prepend(made); continue; }
      if (!groups.has(row.group)) groups.set(row.group, this.group(row.group));
      groups.get(row.group).append(made);
    }
  }

  group(heading) {
    const box = document.createElement("details");
    box.open = OPEN.includes(heading);
    box.appendChild(document.createElement("summary")).textContent = heading;
    this.form.append(box);
    return box;
  }

  show(values) {
    const known = Object.keys(values).length > 0;
    this.form.hidden = !known;
    this.empty.hidden = known;
    for (const [name, row] of this.rows) {
      if (name in values) row.show(values[name]);
    }
  }

  row(spec) {
    const box = document.createElement("div");
    box.className = "row";
    const id = `p-${spec.name}`;
    const label = document.createElement("label");
    label.htmlFor = id;
    label.textContent = spec.name === "pruning" ? "preset or method (pruning)" : spec.name;
    const help = document.createElement("small");
    help.id = `${id}-help`;
    help.textContent = spec.description.replace(" Set by choosing a preset.", "");
    const answer = document.createElement("p");
    answer.className = "answer";
    answer.setAttribute("role", "alert");
    const make = { choice: choice, bool: check }[spec.kind] ?? numeric;
    const { controls, show, main } = make(spec, id, (value) => this.send(spec, value, answer),
      () => this.restore(spec.name));
    main.setAttribute("aria-describedby", help.id);
    if (spec.kind === "bool") {
      box.classList.add("check");
      box.append(controls, label, help, answer);
    } else {
      box.append(label, controls, help, answer);
    }
    this.rows.set(spec.name, { inForce: undefined, show: (value) => {
      const row = this.rows.get(spec.name);
      if (row.busy || box.querySelector("[data-held]")) return; // somebody is at it
      if (row.inForce === value) return;
      row.inForce = value;
      show(value);
    } });
    return box;
  }

  async send(spec, value, answer) {
    const row = this.rows.get(spec.name);
    row.busy = true;
    for (const other of this.form.querySelectorAll(".answer")) if (other !== answer) say(other, "");
    const ok = await post("/api/parameters", { [spec.name]: value }, answer,
      "Set, from the next query on.");
    row.busy = false;
    if (ok) row.inForce = value;
    else this.restore(spec.name);
  }

  restore(name) { // to what is in force
    const row = this.rows.get(name), inForce = row.inForce;
    row.inForce = undefined;
    row.show(inForce);
  }
}

function choice(spec, id, send) {
  const select = document.createElement("select");
  select.id = id;
  select.append(...spec.choices.map((name) => new Option(name, name)));
  select.addEventListener("change", () => send(select.value));
  return { controls: select, main: select, show: (value) => { select.value = value; } };
}

function check(spec, id, send) {
  const box = document.createElement("input");
  box.type = "checkbox";
  box.id = id;
  box.addEventListener("change", () => send(box.checked));
  return { controls: box, main: box, show: (value) => { box.checked = value; } };
}

function numeric(spec, id, send, restore) {
  const ends = document.createElement("div");
  ends.className = spec.slider ? "ends" : "ends single";
  const field = document.createElement("input");
  Object.assign(field, { type: "number", id, min: spec.low ?? "", max: spec.high ?? "",
    step: spec.kind === "int" ? 1 : "any" });
  let slider = null;
  if (spec.slider) {
    slider = document.createElement("input");
    const [low, high] = spec.slider;
    Object.assign(slider, { type: "range", min: low, max: high,
      step: spec.kind === "int" ? 1 : (high - low) / 100 });
    slider.setAttribute("aria-label", `${spec.name}, slider`);
    slider.addEventListener("input", () => { slider.dataset.held = ""; field.value = tidy(slider.value, spec); });
    slider.addEventListener("change", () => { delete slider.dataset.held; send(Number(tidy(slider.value, spec))); });
    ends.append(slider);
  }
  field.addEventListener("input", () => { field.dataset.held = ""; });
  field.addEventListener("blur", () => { delete field.dataset.held; });
  field.addEventListener("change", () => {
    delete field.dataset.held;
    // An empty box, or one without a number, is no 0.
    if (field.value === "") { restore(); return; }
    if (slider) slider.value = field.value;
    send(spec.kind === "int" ? Math.round(Number(field.value)) : Number(field.value));
  });
  ends.append(field);
  return { controls: ends, main: field, show: (value) => {
    field.value = tidy(value, spec);
    if (slider) slider.value = value;
  } };
}

function tidy(value, spec) {
  return spec.kind === "int" ? String(Math.round(value)) : String(Number(Number(value).toPrecision(6)));
}
