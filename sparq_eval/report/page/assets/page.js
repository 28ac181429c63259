// The story of the page: unpack what is shown at once, paint the tables, then the curves; the rest when it is reached.
"use strict";

const TEXTS = ["model", "task", "variant", "method", "metric", "settings", "failure", "key", "test", "verdict", "form", "note"];

function showFacts({ models, tasks, records, rows, devices, commits }) {
  const facts = [
    ["models", models.join(", ")],
    ["tasks", tasks.join(", ")],
    ["records", `${records.toLocaleString("en")} settings with ${rows.toLocaleString("en")} rows`],
    ["devices", devices.join(", ") || "not recorded"],
    ["commits", commits.map((commit) => commit.slice(0, 12)).join(", ") || "not recorded"],
  ];
  at("facts").replaceChildren(...facts.flatMap(([name, text]) => [make("dt", { text: name }), make("dd", { text })]));
}

/** What the tables say of each record beside its numbers. */
function describe(page) {
  for (const group of page.groups) {
    const records = group.records.map((place) => page.records[place]);
    const decimals = records.some(({ value }) => Math.abs(value) >= 10) ? 2 : 4;
    for (const record of records) record.decimals = decimals;
  }
  const methods = new Map();
  for (const record of page.records) {
    record.remarks = remarks(record).join(", ");
    const method = JSON.stringify([record.model, record.method]);
    methods.set(method, [...(methods.get(method) ?? []), record]);
  }
  // what all settings of a method share under one model tells none of them from another
  for (const records of methods.values()) {
    const parts = records.map(({ settings }) => settings.split(" "));
    const shared = new Set(records.length > 1 ? parts[0].filter((part) => parts.every((all) => all.includes(part))) : []);
    for (const [place, record] of records.entries()) record.short = parts[place].filter((part) => !shared.has(part)).join(" ");
  }
}

function tell(error) {
  at("trouble").textContent = `This page could not be drawn (${error?.message ?? error}). It needs a browser of 2023 or later.`;
  at("trouble").hidden = false;
}

async function show() {
  const page = await unpack("overview");
  page.records = rowsOf(page.records, TEXTS, page.strings);
  page.headline = page.headline && rowsOf(page.headline, TEXTS, page.strings);
  describe(page);
  showFacts(page.facts);
  let explorer = null;
  const open = (record) => explorer?.open(record);
  showHeadline(page);
  showSettings(page, open);
  await painted();
  performance.mark("tables");
  // what comes later in the file must have been read
  if (document.readyState === "loading") await new Promise((done) => addEventListener("DOMContentLoaded", done, { once: true }));
  explorer = new Explorer(page);
  await new Curves(page, open).show();
  performance.mark("curves");
  new Needles(page);
  for (const link of document.querySelectorAll("nav a")) link.hidden = document.querySelector(link.hash).hidden;
}

addEventListener("unhandledrejection", (event) => tell(event.reason));
show();
