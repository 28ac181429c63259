// Long lists: only the rows in sight are in the document.
"use strict";

/** Rows of one height in `body`, which scrolls in `scroller`. draw(item, place) makes one. */
class Rows {
  constructor(scroller, body, height, draw, spacer) {
    Object.assign(this, { scroller, body, height, draw, items: [], first: -1, last: -1 });
    this.above = spacer();
    this.below = spacer();
    scroller.addEventListener("scroll", () => this.update(), { passive: true });
    new ResizeObserver(() => this.update()).observe(scroller);
  }

  show(items) {
    this.items = items;
    this.first = this.last = -1;
    this.scroller.scrollTop = 0;
    this.update();
  }

  update() {
    const margin = 8;
    const top = Math.max(0, Math.floor(this.scroller.scrollTop / this.height) - margin);
    const first = Math.min(top, Math.max(0, this.items.length - 1));
    const last = Math.min(this.items.length, first + Math.ceil(this.scroller.clientHeight / this.height) + 2 * margin);
    if (first === this.first && last === this.last) return;
    // a row that goes out of sight takes its focus along: the scroller keeps it, so that keys go on working
    const focused = this.body.contains(document.activeElement);
    Object.assign(this, { first, last });
    const drawn = this.items.slice(first, last).map((item, place) => this.draw(item, first + place));
    this.above.firstChild.style.height = `${first * this.height}px`;
    this.below.firstChild.style.height = `${(this.items.length - last) * this.height}px`;
    this.body.replaceChildren(this.above, ...drawn, this.below);
    if (focused && !this.body.contains(document.activeElement)) this.scroller.focus({ preventScroll: true });
  }

  redraw() {
    this.first = this.last = -1;
    this.update();
  }

  /** Scroll the item at `place` into sight. */
  reveal(place) {
    const top = place * this.height;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.height > scrollTop + clientHeight) this.scroller.scrollTop = top + this.height - clientHeight;
    this.update();
  }
}

function rowSpacer(columns) {
  return () => make("tr", { "aria-hidden": "true" }, make("td", { class: "spacer", colspan: columns }));
}

function itemSpacer() {
  return make("li", { "aria-hidden": "true" }, make("div"));
}
