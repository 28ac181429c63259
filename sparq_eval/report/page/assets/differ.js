// Where two texts part.
"use strict";

// a run of letters and digits, a run of white space, or any other character
const WORDS = /[\p{L}\p{M}\p{N}_]+|\s+|[^\p{L}\p{M}\p{N}_\s]/gu;
const SPACES = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };

function words(text) {
  return text.match(WORDS) ?? [];
}

/** A text as the tokens that end a character, with their numbers, from 1; null where their lengths are not its own. */
function tokens(text, lengths) {
  const characters = Array.from(text);
  const [pieces, numbers] = [[], []];
  let end = 0;
  for (const [place, length] of lengths.split(" ").map(Number).entries()) {
    if (length) {
      pieces.push(characters.slice(end, end + length).join(""));
      numbers.push(place + 1);
    }
    end += length;
  }
  return lengths && end === characters.length ? { pieces, numbers } : null;
}

/**
 * Where two texts part, null if they are equal. sides: each text as [what both begin with, its first differing piece
 * ("" where it has ended), the rest]. unit: what pieces are, tokens where those of both are known. number: of that
 * piece, from 1: of the first text's, if it goes on.
 */
function part(texts, lengths) {
  if (texts[0] === texts[1]) return null;
  const known = texts.map((text, side) => tokens(text, lengths[side]));
  const unit = known[0] && known[1] ? "token" : "word";
  const [left, right] = unit === "token" ? known.map(({ pieces }) => pieces) : texts.map(words);
  let same = 0;
  while (same < left.length && left[same] === right[same]) same++;
  const cut = (list) => [list.slice(0, same).join(""), list[same] ?? "", list.slice(same + 1).join("")];
  const number = unit === "token" ? (known.map(({ numbers }) => numbers[same]).find(Boolean) ?? same + 1) : same + 1;
  return { sides: [cut(left), cut(right)], unit, number };
}

/** A text whose first differing piece is marked. White space, and an end, get a sign that is no part of the text. */
function marked(text, pieces) {
  const shown = make("pre", { tabindex: "0" });
  if (!pieces) {
    shown.textContent = text;
    return shown;
  }
  const [before, piece, after] = pieces;
  const sign = piece === "" ? "ends here" : /^\s+$/.test(piece) ? [...piece].map((space) => SPACES[space] ?? "␣").join("") : null;
  const mark = make("mark", { text: piece, "data-shown": sign, "aria-label": piece === "" ? "the text ends here" : null });
  shown.append(before, mark, after);
  return shown;
}
