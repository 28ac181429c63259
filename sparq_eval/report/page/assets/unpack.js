// Blocks of packed data, and elements: whatever came from a record enters the document as text.
"use strict";

const unpacked = new Map();

/** The text of a block: base64 of gzip of UTF-8. */
async function unpackText(id) {
  const packed = document.getElementById(id).textContent;
  const letters = atob(packed);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place++) bytes[place] = letters.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/** A block's content, unpacked once. */
function unpack(id) {
  if (!unpacked.has(id)) unpacked.set(id, unpackText(id).then(JSON.parse));
  return unpacked.get(id);
}

/** An element. Of `attributes`, `text` becomes its text and what begins with `on` a listener. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function at(id) {
  return document.getElementById(id);
}

/** The next moment at which the browser has painted and taken what the user did. */
function painted() {
  return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}

/** Fill a <select>: options are [value, text]. */
function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, text })));
  if (chosen !== undefined) select.value = chosen;
}

/** Columns of a table as one object a row; columns named in `texts` are places in `strings`. */
function rowsOf(columns, texts, strings) {
  const names = Object.keys(columns);
  const isText = new Set(texts);
  return Array.from({ length: columns[names[0]].length }, (_, place) => {
    const row = { place };
    for (const name of names) row[name] = isText.has(name) ? strings[columns[name][place]] : columns[name][place];
    return row;
  });
}

/** Four decimals for scores around one, fewer for larger ones; a dash where there is none. */
function fixed(value, decimals) {
  if (value === null || value === undefined) return "–";
  return value.toFixed(decimals ?? (Math.abs(value) < 10 ? 4 : 2)).replace("-", "−");
}

function signed(value, decimals) {
  return value > 0 ? `+${fixed(value, decimals)}` : fixed(value, decimals);
}

function named(task, variant) {
  return variant ? `${task} (${variant})` : task;
}
