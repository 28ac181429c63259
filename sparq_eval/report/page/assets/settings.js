// The tables: the headline, and all settings with filters and an order.
"use strict";

const FLAGS = { 1: ["↑", "better", "better than dense"], "-1": ["↓", "worse", "worse than dense"] };

/** What is unusual about a record, in words. */
function remarks(record) {
  return [
    !record.active && "inactive",
    record.truncated > 0 && `${record.truncated} truncated`,
    record.not_finite > 0 && `${record.not_finite} not finite`,
    record.failure && "failed",
  ].filter(Boolean);
}

function interval(record) {
  if (record.difference === null || record.difference === undefined) return "–";
  const ends = [record.low, record.high].map((end) => signed(end, record.decimals)).join(", ");
  return `${signed(record.difference, record.decimals)} [${ends}]`;
}

function swatch(method, page) {
  const dot = make("span", { class: "swatch", "aria-hidden": "true" });
  dot.style.background = page.methods[method].colour;
  return dot;
}

/** key: what the column sorts by. cell: an element's children, or text. */
function settingColumns(page, open) {
  const timed = page.records.some((record) => record.milliseconds !== null);
  const number = (key, title, width, text) => ({ key, title, width, number: true, cell: (record) => text(record[key], record) });
  return [
    { key: "model", title: "model", width: 9.5, cell: (record) => record.model },
    { key: "task", title: "task", width: 8.5, cell: (record) => named(record.task, record.variant) },
    {
      key: "method",
      title: "method",
      width: 8,
      cell: (record) => [swatch(record.method, page), page.methods[record.method].label],
    },
    {
      key: "settings",
      title: "settings",
      width: 15.5,
      cell: (record) => [
        make("button", {
          class: "link",
          type: "button",
          text: record.short || record.settings || "–",
          "aria-label": `Answers of ${record.method} ${record.settings}, ${record.model}, ${record.task}`,
          onclick: () => open(record),
        }),
      ],
      hint: (record) => record.settings,
    },
    number("samples", "n", 4, (value) => String(value)),
    number("value", "score", 5, (value, { decimals }) => fixed(value, decimals)),
    number("stderr", "stderr", 5, (value, { decimals }) => fixed(value, decimals)),
    ...(page.compared
      ? [
          { key: "difference", title: "difference to dense, 95 %", width: 17, number: true, cell: interval },
          { key: "flag", title: "↑↓", label: "told from dense", width: 3, cell: flagged, hint: told },
        ]
      : []),
    number("counted_ratio", "counted", 5.5, (value) => fixed(value, 3)),
    number("nominal_ratio", "nominal", 5.5, (value) => fixed(value, 3)),
    ...(timed ? [number("milliseconds", "ms a token", 5, (value) => fixed(value, 2))] : []),
    {
      key: "remarks",
      title: "remarks",
      width: 7,
      cell: (record) => [make("span", { class: "warn", text: record.remarks })],
      hint: (record) => record.failure || record.remarks,
    },
  ];
}

function flagged(record) {
  const flag = FLAGS[record.flag];
  return flag ? [make("span", { class: flag[1], text: flag[0], "aria-label": flag[2] })] : "";
}

function told(record) {
  if (record.difference === null) return "";
  const power = record.more === null ? "" : `; ${Math.ceil(record.more)} more examples would tell it with 80 % power`;
  return `${record.test}: p = ${record.p?.toPrecision(2)}, q = ${record.q?.toPrecision(2)}, n = ${record.shared}${power}`;
}

function compare(key) {
  return (one, other) => {
    const [left, right] = [one[key], other[key]];
    if (typeof left === "string") return left.localeCompare(right, "en", { numeric: true });
    return left - right;
  };
}

function showSettings(page, open) {
  const columns = settingColumns(page, open);
  const table = at("settings");
  for (const record of page.records) {
    const flag = FLAGS[record.flag]?.slice(0, 2) ?? [];
    const words = [record.model, named(record.task, record.variant), record.method, page.methods[record.method].label];
    record.words = [...words, record.settings, record.metric, record.remarks, ...flag].join(" ").toLowerCase();
  }
  table.querySelector("colgroup").replaceChildren(
    ...columns.map(({ width }) => {
      const column = make("col");
      column.style.width = `${width}em`;
      return column;
    }),
  );
  table.style.minWidth = `${columns.reduce((sum, { width }) => sum + width, 0)}em`;
  const draw = (record, place) =>
    make(
      "tr",
      { "aria-rowindex": place + 2 },
      ...columns.map(({ cell, number, hint }) => {
        const content = cell(record);
        return make("td", { class: number && "number", title: hint?.(record) }, ...(Array.isArray(content) ? content : [content]));
      }),
    );
  const rows = new Rows(at("settings-scroller"), table.tBodies[0], 30, draw, rowSpacer(columns.length));
  const order = { key: null, down: false };

  const update = () => {
    const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = ["model", "task", "method"].map((key) => [key, at(`filter-${key}`).value]).filter(([, value]) => value);
    const kept = page.records.filter(
      (record) => wanted.every(([key, value]) => record[key] === value) && words.every((word) => record.words.includes(word)),
    );
    if (order.key) {
      const missing = (record) => record[order.key] === null || record[order.key] === undefined;
      const known = kept.filter((record) => !missing(record)).sort(compare(order.key));
      if (order.down) known.reverse();
      kept.splice(0, kept.length, ...known, ...kept.filter(missing));
    }
    at("shown").textContent = `${kept.length} of ${page.records.length} settings`;
    table.setAttribute("aria-rowcount", kept.length + 1);
    rows.show(kept);
  };

  const heads = columns.map(({ key, title, label, number }) =>
    make(
      "th",
      { scope: "col", class: number && "number", "aria-sort": "none" },
      make("button", {
        type: "button",
        text: title,
        "aria-label": label,
        onclick: (event) => {
          order.down = order.key === key && !order.down;
          order.key = key;
          for (const head of heads) head.setAttribute("aria-sort", "none");
          event.target.closest("th").setAttribute("aria-sort", order.down ? "descending" : "ascending");
          update();
        },
      }),
    ),
  );
  table.tHead.rows[0].replaceChildren(...heads);
  for (const key of ["model", "task", "method"]) {
    const values = [...new Set(page.records.map((record) => record[key]))];
    fill(at(`filter-${key}`), [["", "all"], ...values.map((value) => [value, page.methods[value]?.label ?? value])]);
    at(`filter-${key}`).addEventListener("change", update);
  }
  at("filter").addEventListener("input", update);
  at("settings-note").textContent = [
    "counted and nominal: share of the elements that dense moves.",
    page.compared ? "↑ ↓: told from dense on the same examples, false discoveries within a task held to 5 %." : "",
    "What all settings of a method share under a model is left out of their names. A name shows its answers.",
  ].join(" ");
  update();
}

function showHeadline(page) {
  if (!page.headline) return;
  const columns = ["model", "task", "method", "compression", "95 %", "margin", "verdict", "note"];
  const times = (value) => (value === null ? "–" : `${fixed(value, 2)} ×`);
  const between = ({ low, high }) => {
    if (low === null || high === null) return low === high ? "–" : low === null ? `up to ${times(high)}` : `from ${times(low)}`;
    return `${times(low)} to ${times(high)}`;
  };
  const body = page.headline.map((row) =>
    make(
      "tr",
      {},
      make("td", { text: row.model }),
      make("td", { text: named(row.task, row.variant) }),
      make("td", {}, swatch(row.method, page), row.form),
      make("td", { class: "number", text: times(row.compression) }),
      make("td", { class: "number", text: between(row) }),
      make("td", { class: "number", text: row.margin === null ? "–" : String(Number(row.margin.toPrecision(3))) }),
      make("td", { text: row.verdict }),
      make("td", { text: row.note }),
    ),
  );
  const numbers = new Set(["compression", "95 %", "margin"]);
  const head = columns.map((title) => make("th", { scope: "col", class: numbers.has(title) && "number", text: title }));
  at("headline").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
  at("headline-note").textContent =
    "How many times fewer elements are counted than for dense while the loss is below the margin with 95 % confidence. " +
    "95 %: what other samples of examples would give, 1.00 where they would show nothing.";
  at("headline-part").hidden = false;
}
