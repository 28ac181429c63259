// The explorer: examples whose scores two settings do not share, their answers side by side, and what is known of them.
"use strict";

class Explorer {
  constructor(page) {
    Object.assign(this, { page, turn: 0, chosen: null });
    this.list = new Rows(at("flips"), at("flips").querySelector("ul"), 30, (item, place) => this.entry(item, place), itemSpacer);
    fill(at("answers-model"), page.facts.models.map((model) => [model, model]));
    at("answers-model").addEventListener("change", () => this.chooseModel());
    at("answers-task").addEventListener("change", () => this.chooseTask());
    for (const name of ["a", "b", "kind"]) at(`answers-${name}`).addEventListener("change", () => this.compare());
    at("flips").addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !this.list.items.length) return;
      event.preventDefault();
      const place = this.list.items.indexOf(this.chosen) + step;
      this.choose(Math.max(0, Math.min(this.list.items.length - 1, place)), true);
    });
    this.fillTasks();
    const watch = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        watch.disconnect();
        if (!this.turn) this.chooseTask();
      },
      { rootMargin: "200px" },
    );
    watch.observe(at("answers-part"));
  }

  /** Show a record's answers beside dense. */
  async open(record) {
    at("answers-model").value = record.model;
    this.fillTasks();
    const number = this.page.groups.findIndex((group) => group.records.includes(record.place));
    at("answers-task").value = number;
    at("answers-part").scrollIntoView();
    await this.chooseTask(record.place);
    at("answers-b").focus({ preventScroll: true });
  }

  chooseModel() {
    this.fillTasks();
    return this.chooseTask();
  }

  fillTasks() {
    const groups = [...this.page.groups.entries()].filter(([, group]) => group.model === at("answers-model").value);
    fill(at("answers-task"), groups.map(([number, group]) => [number, named(group.task, group.variant)]));
  }

  chooseTask(second) {
    const group = this.page.groups[at("answers-task").value];
    const records = group.records.map((place) => this.page.records[place]);
    const options = records.map(({ place, method, short }) => [place, `${this.page.methods[method].label} ${short}`.trim()]);
    const first = (records.find((record) => record.method === "dense") ?? records[0]).place;
    fill(at("answers-a"), options, first);
    fill(at("answers-b"), options, second ?? (records.find((record) => record.place !== first) ?? records[0]).place);
    return this.compare();
  }

  async compare() {
    const turn = ++this.turn;
    at("answers-count").textContent = "Unpacking answers …";
    at("answer").setAttribute("aria-busy", "true");
    const number = at("answers-task").value;
    const block = await unpack(`answers-${number}`);
    if (turn !== this.turn) return;
    const sides = ["a", "b"].map((name) => ({ record: this.page.records[at(`answers-${name}`).value] }));
    for (const side of sides) side.answers = block.records[side.record.place];
    Object.assign(this, { block, sides, group: this.page.groups[number] });
    const items = this.pairs();
    const kind = at("answers-kind").value;
    const better = this.group.up ? 1 : -1;
    const keep = {
      flipped: ({ scores: [a, b] }) => a !== b,
      a: ({ scores: [a, b] }) => (a - b) * better > 0,
      b: ({ scores: [a, b] }) => (b - a) * better > 0,
      text: ({ scores: [a, b], outputs }) => a === b && outputs[0] !== outputs[1],
      all: () => true,
    };
    const count = (name) => items.filter(keep[name]).length;
    at("answers-count").textContent =
      `${items.length} examples in both: ${count("flipped")} with another score (A better ${count("a")}, B better ${count("b")}), ` +
      `${count("text")} with another text and the same score. The largest difference comes first.`;
    this.chosen = null;
    this.list.show(items.filter(keep[kind]));
    if (this.list.items.length) await this.choose(0);
    else this.answer(make("p", { class: "note", text: "No example is like this." }));
  }

  /** What both settings answered. rows: its place in the columns of each. */
  pairs() {
    const [a, b] = this.sides.map((side) => side.answers);
    const places = new Map(b.at.map((example, row) => [example, row]));
    const gap = ({ scores: [one, other] }) => Math.abs(one - other);
    return a.at
      .map((example, row) => ({ example, rows: [row, places.get(example)] }))
      .filter(({ rows }) => rows[1] !== undefined)
      .map((item) => ({
        ...item,
        scores: [a.score[item.rows[0]], b.score[item.rows[1]]],
        outputs: [a.output[item.rows[0]], b.output[item.rows[1]]],
      }))
      .sort((one, other) => gap(other) - gap(one));
  }

  entry(item, place) {
    const scores = item.scores.map((score) => fixed(score, Number.isInteger(score) ? 0 : 3)).join(" → ");
    const name = this.block.examples.id[item.example];
    const button = make(
      "button",
      { type: "button", "aria-current": item === this.chosen ? "true" : "false", title: name, onclick: () => this.choose(place) },
      make("span", { class: "name", text: name || String(this.block.examples.index[item.example]) }),
      make("span", { text: scores }),
    );
    return make("li", {}, button);
  }

  async choose(place, focus) {
    const item = this.list.items[place];
    this.chosen = item;
    at("answer").setAttribute("aria-busy", "true");
    this.list.reveal(place);
    this.list.redraw();
    if (focus) at("flips").querySelector('[aria-current="true"]')?.focus({ preventScroll: true });
    const { examples, strings } = this.block;
    const outputs = item.outputs.map((output) => strings[output]);
    const parted = part(outputs, this.sides.map(({ answers }, side) => strings[answers.lengths[item.rows[side]]]));
    const made = await unpack("provenance");
    if (this.chosen !== item) return;
    const cluster = examples.cluster[item.example];
    const facts = [`example ${examples.index[item.example]}`, `${examples.prompt_tokens[item.example]} tokens of prompt`];
    if (cluster) facts.push(`cluster ${cluster}`);
    const sides = this.sides.map(({ record, answers }, side) =>
      this.side("AB"[side], record, answers, item.rows[side], marked(outputs[side], parted?.sides[side]), made),
    );
    const spot = parted?.unit === "token" ? `; the texts part at token ${parted.number}` : "; their first differing word is marked";
    const where = parted ? spot : outputs[0] ? "; both texts are the same" : "; no text was generated";
    this.answer(
      make("h3", { text: examples.id[item.example] }),
      make("p", { class: "note", text: facts.join(", ") + where }),
      this.references(examples.references[item.example].map((place) => strings[place])),
      make("div", { class: "sides" }, ...sides),
      this.prompt(examples.prompt[item.example]),
    );
  }

  answer(...shown) {
    at("answer").replaceChildren(...shown);
    at("answer").setAttribute("aria-busy", "false");
  }

  side(letter, record, answers, row, text, made) {
    const label = `${letter}: ${this.page.methods[record.method].label} ${record.settings}`;
    const share = answers.sparse[row];
    const facts = [
      `${this.page.metrics[record.metric]} ${fixed(answers.score[row])}`,
      `${answers.generated[row]} tokens`,
      share === null ? "no decode step" : share ? `sparse at ${fixed(100 * share, 0)} % of its steps, in ${answers.layers[row]} layers` : "nothing left out",
      ...(answers.truncated.includes(row) ? ["prompt truncated"] : []),
      ...(answers.not_finite.includes(row) ? ["logits not finite"] : []),
    ];
    return make(
      "div",
      { class: "side" },
      make("h4", { text: label }),
      make("p", { class: "note", text: facts.join(", ") }),
      text,
      certificate(record, made),
    );
  }

  /** The first of the answers that are right, all of them when asked. */
  references(texts) {
    const shown = make("div", { class: "references" });
    const list = (texts) => make("ul", {}, ...texts.map((text) => make("li", { text })));
    if (texts.length) shown.append(make("p", { class: "note", text: texts.length > 1 ? "References, any of which is right" : "Reference" }), list(texts.slice(0, 5)));
    if (texts.length > 5) {
      shown.append(make("details", {}, make("summary", { text: `${texts.length - 5} more` }), list(texts.slice(5))));
    }
    return shown;
  }

  prompt(place) {
    if (!place) return make("p", { class: "note", text: "Its prompt was not kept beside these records." });
    const shown = make("pre", { tabindex: "0" });
    const details = make("details", {}, make("summary", { text: "Prompt" }), shown);
    details.addEventListener("toggle", async () => {
      if (details.open && !shown.textContent) shown.textContent = (await unpack(`prompts-${place[0]}`))[place[1]];
    });
    return details;
  }
}

/** What a record vouches for, and what made it. */
function certificate(record, { parts, records }) {
  const said = records[record.place];
  const facts = [
    ["record", record.key],
    ["examples", String(record.samples)],
    ["sparse at", record.sparse_share === null ? "no decode step was taken" : `${fixed(100 * record.sparse_share, 1)} % of decode steps`],
    ["layers active", String(record.layers_active)],
    ["truncated", String(record.truncated)],
    ["not finite", String(record.not_finite)],
    ...(record.failure ? [["failure", record.failure]] : []),
  ];
  const runs = (said.runs ?? []).map((place) => parts[place]);
  const details = make("details", { class: "certificate" }, make("summary", { text: "Certificate and provenance" }));
  const describe = (pairs) => make("dl", {}, ...pairs.flatMap(([name, text]) => [make("dt", { text: name }), make("dd", { text })]));
  details.append(describe(facts));
  if (said.why) details.append(make("p", { class: "warn", text: said.why }));
  for (const run of runs) {
    const names = ["started", "device", "commit", "command", "torch", "python", "threads"].filter((name) => run[name] !== undefined);
    details.append(describe(names.map((name) => [name, String(run[name])])), unfolding("The whole run", run));
  }
  for (const name of ["model", "data", "protocol", "versions", "decoding"]) {
    if (said[name] !== undefined) details.append(unfolding(name, parts[said[name]]));
  }
  return details;
}

/** JSON that is written out when it is opened. */
function unfolding(name, value) {
  const shown = make("pre", { tabindex: "0" });
  const details = make("details", {}, make("summary", { text: name }), shown);
  details.addEventListener("toggle", () => {
    if (details.open) shown.textContent = JSON.stringify(value, null, 1);
  });
  return details;
}
