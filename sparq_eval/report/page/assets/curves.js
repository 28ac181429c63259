// Trade-off curves of one model, a chart for each task.
"use strict";

/** What the pointer shows at a setting. */
function hover(record, page) {
  const lines = [
    `${page.methods[record.method].label} ${record.settings}`,
    `${fixed(record.value, record.decimals)} ± ${fixed(record.stderr, record.decimals)}, n = ${record.samples}`,
    `counted ${fixed(record.counted_ratio, 3)}, nominal ${fixed(record.nominal_ratio, 3)} of dense`,
  ];
  if (record.difference !== null && record.difference !== undefined) {
    lines.push(`to dense ${interval(record)} ${FLAGS[record.flag]?.[0] ?? ""}`);
  }
  return lines.map(literal).join("<br>");
}

const SIGNS = { circle: "●", square: "■", "triangle-up": "▲", diamond: "◆", cross: "✚", x: "✖", pentagon: "⬟", hexagon: "⬢" };

/** Powers of two, and their halves again as much, around `values`, as Plotly's ticks. */
function powers(values) {
  const low = Math.floor(Math.log2(Math.min(...values)));
  const high = Math.ceil(Math.log2(Math.max(...values)));
  const ticks = Array.from({ length: high - low + 1 }, (_, step) => 2 ** (low + step)).flatMap((tick) => [tick, 1.5 * tick]);
  return { tickvals: ticks, ticktext: ticks.map((tick) => String(Number(tick.toPrecision(3)))) };
}

class Curves {
  constructor(page, open) {
    Object.assign(this, { page, open, hidden: new Set(), turn: 0 });
    const models = page.facts.models;
    fill(at("curves-model"), models.map((model) => [model, model]));
    at("curves-model").addEventListener("change", () => this.show());
    for (const box of ["curves-log", "curves-near"]) at(box).addEventListener("change", () => this.redraw());
    for (const choice of document.getElementsByName("transfers")) choice.addEventListener("change", () => this.redraw());
  }

  get transfers() {
    return document.querySelector('input[name="transfers"]:checked').value;
  }

  /** All charts of the chosen model, one after another so that the page goes on answering. */
  async show() {
    const turn = ++this.turn;
    const groups = this.page.groups.filter((group) => group.model === at("curves-model").value);
    this.hidden.clear();
    this.legend(groups);
    at("curves").setAttribute("aria-busy", "true");
    const library = await charts();
    if (turn !== this.turn) return;
    for (const { plot } of this.drawn ?? []) library.purge(plot);
    this.drawn = groups.map((group) => {
      const plot = make("div", { class: "plot" });
      const note = make("p", { class: "note" });
      const caption = make("figcaption", { text: named(group.task, group.variant) });
      return { group, plot, note, figure: make("figure", {}, caption, plot, note) };
    });
    at("curves").replaceChildren(...this.drawn.map(({ figure }) => figure));
    for (const chart of this.drawn) {
      await this.draw(chart, library);
      await painted();
      if (turn !== this.turn) return;
    }
    at("curves").setAttribute("aria-busy", "false");
  }

  async redraw() {
    const turn = this.turn;
    const library = await charts();
    for (const chart of this.drawn ?? []) {
      if (turn !== this.turn) return;
      await this.draw(chart, library);
    }
  }

  legend(groups) {
    const lines = new Map(groups.flatMap((group) => group.lines).map((line) => [line.label, line]));
    const entries = [...lines.values()].map(({ label, colour, symbol }) => {
      const box = make("input", { type: "checkbox", checked: true });
      box.style.accentColor = colour;
      box.addEventListener("change", () => {
        this.hidden[box.checked ? "delete" : "add"](label);
        this.redraw();
      });
      const sign = make("span", { class: "sign", "aria-hidden": "true", text: SIGNS[symbol] });
      sign.style.color = colour;
      return make("label", {}, box, sign, label);
    });
    at("legend").replaceChildren(...entries);
  }

  draw({ group, plot, note }, library) {
    const { records, metrics } = this.page;
    const all = group.records.map((place) => records[place]);
    const known = all.filter((record) => record[this.transfers] > 0 && record.value !== null && record.active);
    const dense = known.find((record) => record.method === "dense");
    const fitting = new Set(known);
    const traces = group.lines
      .filter((line) => !this.hidden.has(line.label))
      .map((line) => this.trace(line, line.points.map((place) => records[place]).filter((record) => fitting.has(record)), dense));
    if (dense) traces.push(this.trace({ colour: "#333333", symbol: "circle" }, [dense]));
    const x = known.map((record) => record[this.transfers]);
    const log = at("curves-log").checked;
    const metric = literal(metrics[group.metric]) + (group.up ? "" : "<br>lower is better");
    const xaxis = { title: { text: `${this.transfers} transfers, 2²⁰ elements`, standoff: 6 }, autorange: "reversed", type: log ? "log" : "linear" };
    if (log && x.length) Object.assign(xaxis, powers(x));
    const line = { type: "line", xref: "paper", x0: 0, x1: 1, y0: dense?.value, y1: dense?.value, line: { color: "#333333", width: 1, dash: "dash" } };
    const left = all.length - known.length;
    const notes = left ? [`${left} of ${all.length} settings are not drawn: inactive, or without a score or transfers`] : [];
    // what is better is up
    const yaxis = { title: { text: metric, standoff: 4 }, autorange: group.up ? true : "reversed" };
    if (at("curves-near").checked) {
      Object.assign(yaxis, { range: group.near, autorange: false });
      const [low, high] = [Math.min(...group.near), Math.max(...group.near)];
      const off = known.filter(({ value }) => value < low || value > high).length;
      if (off) notes.push(`${off} of ${all.length} settings are off the plot: untick “scores near dense only” to see them`);
    }
    note.textContent = notes.join("; ");
    const layout = layoutOf({ xaxis, yaxis, shapes: dense ? [line] : [] });
    return library.react(plot, traces, layout, CONFIG).then(() => {
      plot.removeAllListeners?.("plotly_click");
      plot.on("plotly_click", ({ points }) => this.open(records[points[0].customdata]));
    });
  }

  /** From dense, where there is one, down in transfers. */
  trace({ colour, symbol }, settings, dense) {
    const points = settings.sort((one, other) => other[this.transfers] - one[this.transfers]);
    if (dense) points.unshift(dense);
    return {
      type: "scatter",
      mode: "lines+markers",
      x: points.map((record) => record[this.transfers]),
      y: points.map((record) => record.value),
      error_y: { type: "data", array: points.map((record) => record.stderr ?? 0), thickness: 1, width: 2, color: colour },
      customdata: points.map((record) => record.place),
      text: points.map((record) => hover(record, this.page)),
      hoverinfo: "text",
      line: { color: colour, width: 1.8 },
      marker: { color: colour, symbol, size: 8, line: { color: "#ffffff", width: 0.8 } },
    };
  }
}
