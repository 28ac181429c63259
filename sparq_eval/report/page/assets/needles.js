// Needle maps: a chart for each setting of one model, length by depth.
"use strict";

const SCALE = [
  [0, "#d55e00"],
  [0.5, "#f2f2f2"],
  [1, "#0072b2"],
];

class Needles {
  constructor(page) {
    this.page = page;
    this.turn = 0;
    this.groups = page.groups.filter((group) => group.needles);
    if (!this.groups.length) return;
    const names = this.groups.map((group, place) => [place, `${group.model}, ${named(group.task, group.variant)}`]);
    fill(at("needles-model"), names);
    at("needles-model").addEventListener("change", () => this.show());
    at("needles-part").hidden = false;
    const watch = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        watch.disconnect();
        this.show();
      },
      { rootMargin: "400px" },
    );
    watch.observe(at("needles-part"));
  }

  async show() {
    const turn = ++this.turn;
    const library = await charts();
    if (turn !== this.turn) return;
    for (const plot of at("needles").querySelectorAll(".plot")) library.purge(plot);
    at("needles").replaceChildren();
    const group = this.groups[at("needles-model").value];
    for (const place of group.records) {
      const record = this.page.records[place];
      const plot = make("div", { class: "plot" });
      const setting = `${this.page.methods[record.method].label} ${record.short}`.trim();
      const title = `${setting}: ${fixed(record.value, 2)}`;
      at("needles").append(make("figure", {}, make("figcaption", { text: title }), plot));
      await this.draw(plot, group.needles, group.needles.found[record.key], library);
      await painted();
      if (turn !== this.turn) return;
    }
  }

  draw(plot, { lengths, depths }, found, library) {
    const percent = depths.map((depth) => `${Number((100 * depth).toFixed(1))} %`);
    const trace = {
      type: "heatmap",
      x: lengths.map(String),
      y: percent,
      z: found,
      zmin: 0,
      zmax: 1,
      colorscale: SCALE,
      showscale: false,
      xgap: 1,
      ygap: 1,
      hoverongaps: false,
      hovertemplate: "length %{x}, depth %{y}: %{z:.2f}<extra></extra>",
    };
    const few = (names, most) => names.filter((_, place) => place % Math.ceil(names.length / most) === 0);
    const layout = layoutOf({
      margin: { l: 44, r: 4, t: 4, b: 24 },
      xaxis: { type: "category", tickvals: few(trace.x, 5), showgrid: false, tickangle: 0 },
      yaxis: { type: "category", tickvals: few(percent, 5), showgrid: false, autorange: "reversed" },
    });
    return library.newPlot(plot, [trace], layout, { ...CONFIG, displayModeBar: false });
  }
}
