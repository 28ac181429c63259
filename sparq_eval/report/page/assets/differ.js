// Where two texts part.
"use strict";

// a run of letters and digits, a run of white space, or any other character
const WORDS = /[\p{L}\p{M}\p{N}_]+|\s+|[^\p{L}\p{M}\p{N}_\s]/gu;
const SPACES = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };

function words(text) {
  return text.match(WORDS) ?? [];
}

/** Each text as [what both begin with, its first differing word ("" where it has ended), the rest]; null if equal. */
function part(one, other) {
  if (one === other) return null;
  const [left, right] = [words(one), words(other)];
  let same = 0;
  while (same < left.length && left[same] === right[same]) same++;
  const cut = (list) => [list.slice(0, same).join(""), list[same] ?? "", list.slice(same + 1).join("")];
  return [cut(left), cut(right)];
}

/** A text whose first differing word is marked. White space, and an end, get a sign that is no part of the text. */
function marked(text, pieces) {
  const shown = make("pre", { tabindex: "0" });
  if (!pieces) {
    shown.textContent = text;
    return shown;
  }
  const [before, word, after] = pieces;
  const sign = word === "" ? "ends here" : /^\s+$/.test(word) ? [...word].map((space) => SPACES[space] ?? "␣").join("") : null;
  const mark = make("mark", { text: word, "data-shown": sign, "aria-label": word === "" ? "the text ends here" : null });
  shown.append(before, mark, after);
  return shown;
}
