// Time and tokens over the queries, drawn by uPlot.
import { say } from "./dom.js";

const HEIGHT = 180;
const LATENCY = ["total_ms", "decoder", "vision"];

const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString([], { hour12: false });
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Charts {
  constructor(latency, tokens) {
    this.boxes = { latency, tokens };
    this.plots = {};
    this.points = [];
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.rebuild());
    new ResizeObserver(() => this.resize()).observe(latency);
  }

  draw(points) {
    this.points = points;
    if (!this.plots.latency) this.rebuild();
    const time = points.map((point) => point.t);
    const stage = (point, name) => (name in point.stages ? point.stages[name] : null);
    this.plots.latency.setData([time, points.map((p) => p.total_ms),
      points.map((p) => stage(p, LATENCY[1])), points.map((p) => stage(p, LATENCY[2]))]);
    this.plots.tokens.setData([time, points.map((p) => p.tokens_dense),
      points.map((p) => p.tokens_static), points.map((p) => p.tokens_last)]);
    this.showNewest();
    const newest = points.at(-1);
    say(this.boxes.latency.nextElementSibling,
      `${points.length} queries; the newest took ${newest.total_ms.toFixed(1)} ms`);
    say(this.boxes.tokens.nextElementSibling, `the newest query kept ${newest.tokens_static} of `
      + `${newest.tokens_dense} tokens, ${newest.tokens_last} in the last layer`);
  }

  rebuild() {
    for (const plot of Object.values(this.plots)) plot.destroy();
    this.plots = {
      latency: this.plot(this.boxes.latency, ["query", "decoder", "vision"],
        (value) => `${value.toFixed(1)} ms`),
      tokens: this.plot(this.boxes.tokens, ["dense", "kept by the static stage", "last layer"],
        (value) => value.toFixed(0)),
    };
    if (this.points.length) this.draw(this.points);
  }

  plot(box, names, format) {
    const colours = [1, 2, 3].map((k) => css(`--series-${k}`));
    const dashes = [[], [7, 3], [2, 3]]; // told apart without colours, too
    const axis = { stroke: css("--quiet"), grid: { stroke: css("--line"), width: 1 },
      ticks: { stroke: css("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    return new uPlot({
      width: box.clientWidth, height: HEIGHT,
      scales: { y: { range: (_plot, _low, high) => [0, Math.max(1, high * 1.08)] } },
      axes: [{ ...axis, space: 80, values: (_plot, splits) => splits.map(clock) }, { ...axis, size: 48 }],
      series: [
        { value: (_plot, value) => (value === null ? "–" : clock(value)) },
        ...names.map((label, k) => ({ label, stroke: colours[k], width: 2, dash: dashes[k],
          points: { show: false }, spanGaps: true,
          value: (_plot, value) => (value === null ? "–" : format(value)) })),
      ],
      legend: { live: true, markers: { dash: (_plot, k) => ["solid", "solid", "dashed", "dotted"][k] } },
      hooks: { drawClear: [(plot) => this.shadeFine(plot)] },
    }, [[], [], [], []], box);
  }

  shadeFine(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = css("--fine");
    this.points.forEach((point, k) => {
      if (point.mode !== "fine") return;
      const left = plot.valToPos(point.t, "x", true);
      const next = this.points[k + 1];
      const right = next ? plot.valToPos(next.t, "x", true) : left + 2;
      ctx.fillRect(left, bbox.top, Math.max(1, right - left), bbox.height);
    });
    ctx.restore();
  }

  showNewest() { // in the legend, unless somebody points at a query
    for (const plot of Object.values(this.plots)) {
      if (plot.cursor.left < 0 || plot.cursor.left === undefined) {
        plot.setLegend({ idx: this.points.length - 1 }, false);
      }
    }
  }

  resize() {
    for (const [name, plot] of Object.entries(this.plots)) {
      plot.setSize({ width: this.boxes[name].clientWidth, height: HEIGHT });
    }
    if (this.points.length) requestAnimationFrame(() => this.showNewest());
  }
}
