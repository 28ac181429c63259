"""The page, in a real browser: it shows what the frames hold, fetches nothing, and what a model wrote stays text."""

import base64
import gzip
import itertools
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page_records import (
    DEPTHS,
    HOSTILE,
    LENGTHS,
    METHOD,
    MODEL,
    RUN,
    compared,
    headlines,
    many,
    prompt,
    references,
    write_records,
)
from playwright.sync_api import Browser, Page, sync_playwright

from sparq_eval.report.page import PAGE, write_page
from sparq_eval.report.page.answers import PIECE, Prompts
from sparq_eval.report.page.pack import number, pack
from sparq_eval.results import Frames, load
from sparq_eval.results.prompts import Prompt, load_prompts

DRAWN, ANSWERED = '#curves[aria-busy="false"]', '#answer[aria-busy="false"]'


@dataclass
class Opened:
    """A page, and all that it complained of or asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def ask(self, script: str, *given: Any) -> Any:
        return self.page.evaluate(script, *given)

    def until(self, condition: str) -> None:
        """Wait for a condition: the page's policy forbids the evaluations by which Playwright would wait for it."""
        turns = f"for (let turn = 0; turn < 600 && !({condition}); turn++) await painted()"
        assert self.ask(f"async () => {{ {turns}; return {condition} }}"), condition

    def mark(self, name: str) -> float:
        """Seconds from the beginning to a moment that the page noted."""
        return self.ask(f"performance.getEntriesByName('{name}')[0].startTime") / 1000

    def rows(self) -> list[list[str]]:
        return self.ask(
            "[...document.querySelectorAll('#settings tbody tr:not([aria-hidden])')].map(row => "
            "[...row.cells].map(cell => cell.textContent))"
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no browser: install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_records(folder)
    return folder


@pytest.fixture(scope="module")
def frames(root: Path) -> Frames:
    return load(root)


@pytest.fixture(scope="module")
def written(root: Path, frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = frames.records
    return write_page(frames, compared(records), headlines(records), load_prompts(root), tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def opened(browser: Browser, written: Path) -> Iterator[Opened]:
    with_page = open_page(browser, written)
    yield with_page
    with_page.page.close()


def open_page(browser: Browser, path: Path) -> Opened:
    opened = Opened(browser.new_page(viewport={"width": 1280, "height": 900}))
    page = opened.page
    page.on("console", lambda message: opened.said.append(message.text))
    page.on("pageerror", lambda error: opened.said.append(str(error)))
    page.on("dialog", lambda dialog: (opened.said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: opened.asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector(DRAWN, timeout=60_000)
    return opened


def explore(opened: Opened, model: str, task: str, a: int, b: int, kind: str = "flipped") -> None:
    """Choose in the explorer; a, b: places of settings in their lists."""
    page = opened.page
    page.locator("#answers-part").scroll_into_view_if_needed()
    page.select_option("#answers-model", model)
    page.select_option("#answers-task", label=task)
    for name, place in (("a", a), ("b", b)):
        page.select_option(f"#answers-{name}", index=place)
    page.select_option("#answers-kind", kind)
    page.wait_for_selector(ANSWERED)


def of(frames: Frames, model: str, task: str) -> pd.DataFrame:
    return frames.records[(frames.records["model"] == model) & (frames.records["task"] == task)]


def test_it_opens_from_disk_without_complaints_and_asks_the_network_for_nothing(opened: Opened, written: Path) -> None:
    assert opened.said == []
    assert opened.asked == [written.as_uri()]
    assert opened.mark("tables") < opened.mark("curves"), "tables do not wait for the charts' library"


def test_its_header_says_what_the_records_are(opened: Opened, frames: Frames) -> None:
    facts = opened.page.inner_text("#facts")
    for text in (MODEL, "org/m_1", "needle", f"{len(frames.records)} settings", RUN["device"], RUN["commit"][:12]):
        assert text in facts
    assert f"{len(frames.samples):,} rows" in facts
    lines = opened.page.locator("#headline tbody tr").all_inner_texts()
    assert len(lines) == len(headlines(frames.records))
    assert all("4.50" in line and "from 3.25" in line and HOSTILE[1] in line for line in lines)


@pytest.mark.parametrize("words", ["", "sparq r=16", "H2O squad", "onerror", "↓", "K=32 Needle", "nothing-like-it"])
def test_the_filter_keeps_the_settings_in_which_all_words_are(opened: Opened, frames: Frames, words: str) -> None:
    opened.page.fill("#filter", words)
    records = frames.records.merge(compared(frames.records)[["key", "worse", "better"]], on="key", how="left")
    labels = records["method"].map({"sparq": "SparQ", "h2o": "H2O"}).fillna("")
    settings = records["settings"].str.replace(r'[{}",]', "", regex=True).str.replace(": ", "=")
    flags = records["worse"].map({True: "↓"}).fillna("") + records["better"].map({True: "↑"}).fillna("")
    text = records["model"] + " " + records["task"] + " " + records["method"] + " " + labels + " " + settings + flags
    fit = [all(word in line for word in words.lower().split()) for line in text.str.lower()]
    assert opened.page.inner_text("#shown") == f"{sum(fit)} of {len(records)} settings"
    assert len(opened.rows()) == sum(fit) or len(opened.rows()) > 15
    opened.page.fill("#filter", "")


def test_a_column_sorts_both_ways_and_by_the_keyboard(opened: Opened, frames: Frames) -> None:
    page = opened.page
    page.select_option("#filter-task", "squad")
    shown = of(frames, "org/m_1", "squad")["value"].to_list() + of(frames, MODEL, "squad")["value"].to_list()
    head = page.locator("#settings th button", has_text="score")
    head.focus()
    for order in ("ascending", "descending"):
        page.keyboard.press("Enter")
        assert head.locator("..").get_attribute("aria-sort") == order
        values = sorted(shown, reverse=order == "descending")
        assert [float(row[5]) for row in opened.rows()] == pytest.approx(values, abs=6e-5)
    page.locator("#settings th button", has_text="difference").click()
    assert [row[7] for row in opened.rows()][-2:] == ["\N{EN DASH}"] * 2, "what has no value comes last"
    page.select_option("#filter-task", "")


def test_rows_out_of_sight_are_not_in_the_document_and_come_by_scrolling(opened: Opened, frames: Frames) -> None:
    seen = {tuple(row) for row in opened.rows()}
    height = opened.ask("document.getElementById('settings-scroller').scrollHeight")
    for top in range(0, height, 200):
        opened.ask(f"async () => {{ at('settings-scroller').scrollTop = {top}; await painted(); }}")
        assert len(opened.rows()) < len(frames.records)
        seen |= {tuple(row) for row in opened.rows()}
    assert len(seen) == len(frames.records)


@pytest.mark.parametrize("model", ["org/m_1", MODEL])
@pytest.mark.parametrize("transfers", ["counted", "nominal"])
def test_curves_hold_every_setting_at_its_transfers(opened: Opened, frames: Frames, model: str, transfers: str) -> None:
    page = opened.page
    page.check(f"input[name=transfers][value={transfers}]")
    page.select_option("#curves-model", model)
    page.wait_for_selector(DRAWN)
    tasks = page.locator("#curves figcaption").all_inner_texts()
    charts = opened.ask(
        "[...document.querySelectorAll('#curves .plot')].map(plot => plot.data.map(trace => "
        "trace.x.map((x, place) => [x, trace.y[place], trace.error_y.array[place], trace.text[place]])))"
    )
    assert tasks == list(dict.fromkeys(frames.records.query("model == @model")["task"]))
    for task, traces in zip(tasks, charts, strict=True):
        records = of(frames, model, task)
        drawn = {(round(x, 6), round(y, 6), round(error, 6)) for trace in traces for x, y, error, _ in trace}
        wanted = zip(records[transfers] / 2**20, records["value"], records["stderr"], strict=True)
        assert drawn == {(round(x, 6), round(y, 6), round(error, 6)) for x, y, error in wanted}
        for trace in traces:
            assert [x for x, *_ in trace[1:]] == sorted((x for x, *_ in trace[1:]), reverse=True)
        told = " ".join(text for trace in traces for *_, text in trace)
        assert "r=16" in told and "to dense" in told and "n = " in told and "<a" not in told
    page.check("input[name=transfers][value=counted]")


def test_a_line_can_be_hidden_and_the_axis_be_linear(opened: Opened) -> None:
    page = opened.page
    count = "document.querySelector('#curves .plot').data.length"
    before = opened.ask(count)
    page.locator("#legend input").first.uncheck()
    page.uncheck("#curves-log")
    opened.until(f"{count} === {before - 1}")
    opened.until("document.querySelector('#curves .plot').layout.xaxis.type === 'linear'")
    page.locator("#legend input").first.check()
    page.check("#curves-log")


def test_needle_maps_hold_the_scores_of_their_rows(opened: Opened, frames: Frames) -> None:
    page = opened.page
    page.locator("#needles-part").scroll_into_view_if_needed()
    records = of(frames, "org/m_1", "needle")
    page.wait_for_selector(f"#needles figure:nth-child({len(records)}) .heatmaplayer image")
    maps = opened.ask("[...document.querySelectorAll('#needles .plot')].map(plot => plot.data[0].z)")
    for key, found in zip(records["key"], maps, strict=True):
        scores = frames.samples[frames.samples["key"] == key].sort_values("index")["score"].to_numpy()
        assert np.array_equal(np.array(found), scores.reshape(len(LENGTHS), DEPTHS).T)


@pytest.mark.parametrize(("model", "task"), [("org/m_1", "squad"), (MODEL, "bits")])
@pytest.mark.parametrize("pair", [(0, 1), (2, 5)])
def test_the_explorer_lists_the_examples_whose_scores_differ(
    opened: Opened, frames: Frames, model: str, task: str, pair: tuple[int, int]
) -> None:
    explore(opened, model, task, *pair)
    keys = of(frames, model, task)["key"].iloc[list(pair)]
    a, b = (frames.samples[frames.samples["key"] == key].set_index("index").sort_index() for key in keys)
    flips = int((a["score"] != b["score"]).sum())
    higher, lower = int((a["score"] > b["score"]).sum()), int((a["score"] < b["score"]).sum())
    better = (higher, lower) if task == "squad" else (lower, higher)
    assert (
        flips
        and f"{flips} with another score (A better {better[0]}, B better {better[1]})"
        in opened.page.inner_text("#answers-count")
    )
    gaps = (a["score"] - b["score"]).abs()
    number = int(opened.page.inner_text("#answer > .note").split(",")[0].removeprefix("example "))
    assert gaps[number] == gaps.max()
    texts = [opened.page.locator("#answer .side > pre").nth(side).text_content() for side in (0, 1)]
    assert texts == [a["output"][number], b["output"][number]]


def test_the_first_difference_is_marked_and_the_prompt_comes_when_asked(opened: Opened) -> None:
    page = opened.page
    first = "[...document.querySelectorAll('#answer .side > pre')].map(pre => pre.firstChild.textContent)"
    explore(opened, MODEL, "squad", 0, 1)
    assert page.locator("#answer .side > pre mark").first.text_content() == "right"
    number = int(page.inner_text("#answer > .note").split(",")[0].removeprefix("example "))
    assert opened.ask(first) == [f"the answer of {number} is "] * 2
    assert "first differing word is marked" in page.inner_text("#answer > .note")
    explore(opened, "org/m_1", "squad", 0, 1)
    number = int(page.inner_text("#answer > .note").split(",")[0].removeprefix("example "))
    texts = [page.locator("#answer .side > pre").nth(side).text_content() or "" for side in (0, 1)]
    at = 4 * next(n for n in range(99) if texts[0][: 4 * n + 4] != texts[1][: 4 * n + 4])
    assert opened.ask(first) == [text[:at] for text in texts]
    marks = page.locator("#answer .side > pre mark")
    assert [marks.nth(side).text_content() for side in (0, 1)] == [text[at : at + 4] for text in texts]
    assert f"the texts part at token {at // 2 + 1}" in page.inner_text("#answer > .note")
    page.locator("#answer summary", has_text="Prompt").click()
    page.wait_for_selector("#answer > details pre:not(:empty)")
    assert page.locator("#answer > details pre").text_content() == prompt("squad", number)
    explore(opened, MODEL, "bits", 0, 1)
    assert "not kept" in page.inner_text("#answer")


def test_the_explorer_shows_the_answers_that_are_right(opened: Opened) -> None:
    page = opened.page
    explore(opened, "org/m_1", "squad", 0, 1, "all")
    shown = set()
    for place in range(9):
        page.locator("#flips button").nth(place).click()
        page.wait_for_selector(ANSWERED)
        number = int(page.inner_text("#answer > .note").split(",")[0].removeprefix("example "))
        right = references(number)
        found = page.locator("#answer > .references li")
        assert [found.nth(n).text_content() for n in range(found.count())] == list(right)
        assert page.locator("#answer > .references summary", has_text="4 more").count() == (len(right) == 9)
        shown.add(len(right))
    assert shown == {0, 1, 9}


def test_each_record_says_what_made_it(opened: Opened, frames: Frames) -> None:
    page = opened.page
    explore(opened, "org/m_1", "squad", 0, 1)
    page.locator("#answer summary", has_text="Certificate").nth(1).click()
    said = page.locator("#answer .certificate").nth(1).inner_text()
    record = of(frames, "org/m_1", "squad").iloc[1]
    for text in (record["key"], "100.0 % of decode steps", RUN["commit"], RUN["command"], RUN["device"]):
        assert text in said
    page.locator("#answer .certificate").nth(1).locator("summary", has_text="protocol").click()
    page.wait_for_selector("#answer .certificate pre:not(:empty)")
    assert json.loads(page.locator("#answer .certificate pre:not(:empty)").text_content() or "") == {"dtype": "float32"}


def test_arrows_walk_through_the_examples(opened: Opened) -> None:
    page = opened.page
    explore(opened, "org/m_1", "squad", 0, 1, "all")
    page.locator("#flips button").first.focus()
    first = page.inner_text("#answer > .note")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(ANSWERED)
    assert page.locator("#flips [aria-current=true]").count() == 1
    second = page.inner_text("#answer > .note")
    assert second != first
    page.keyboard.press("ArrowUp")
    page.wait_for_selector(ANSWERED)
    assert page.inner_text("#answer > .note") == first


def test_a_setting_of_the_table_opens_its_answers_beside_dense(opened: Opened) -> None:
    page = opened.page
    page.fill("#filter", "m_1 squad h2o k=256")
    page.locator("#settings tbody button").click()
    page.wait_for_selector("#answer .side:nth-child(2) h4:has-text('H2O k=256')")
    assert page.locator("#answer .side h4").first.inner_text() == "A: dense"
    page.fill("#filter", "")


def test_what_a_model_wrote_stays_text(opened: Opened, frames: Frames, written: Path) -> None:
    page = opened.page
    explore(opened, MODEL, "squad", 0, 9, "all")
    for place in range(8):
        page.locator("#flips button").nth(place).click()
        page.wait_for_selector(ANSWERED)
        assert METHOD in page.inner_text("#answer")
    active = "img, iframe, object, embed, base, [onerror], a[href^=javascript], a[href^=http]"
    assert page.locator(active).count() == 0
    assert opened.ask("document.querySelectorAll('svg image[href^=http]').length") == 0
    assert opened.said == [] and len(opened.asked) == 1
    text = written.read_text(encoding="utf-8")
    assert not any(hostile in text for hostile in (*HOSTILE[:3], MODEL, METHOD)), "no markup of a record is in the file"


def test_its_policy_lets_nothing_else_run_or_be_fetched(opened: Opened) -> None:
    blocked = opened.ask(
        """async () => {
          const blocked = [];
          addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
          document.body.append(make("script", { text: "window.ran = true" }));
          document.body.append(make("img", { src: "http://127.0.0.1:9/", hidden: true }));
          document.querySelector("img").setAttribute("onerror", "window.ran = true");
          await fetch("http://127.0.0.1:9/").catch(() => {});
          await new Promise((done) => setTimeout(done, 100));
          for (const element of document.querySelectorAll("body > img")) {
            element.remove();
          }
          return [blocked.toSorted(), window.ran];
        }"""
    )
    assert blocked == [["connect-src", "img-src", "script-src-attr", "script-src-elem"], None]
    # the browser names what it blocked
    opened.said.clear()
    del opened.asked[1:]


def test_texts_part_at_their_first_differing_word_or_token(opened: Opened) -> None:
    chance = random.Random(5)
    letters = ["a", "bc", " ", "\n", "é", "模", "😀", ".", "<b>", "1851", "x_1"]
    texts = [chance.choices(letters, k=chance.randrange(9)) for _ in range(40)]
    pairs = list(itertools.product(texts, repeat=2))
    apart = "pairs => pairs.map(([texts, lengths]) => part(texts, lengths))"
    whole = [["".join(text) for text in pair] for pair in pairs]
    # a token that makes no character whole stands before each
    lengths = [[" ".join(f"0 {len(letter)}" for letter in text) for text in pair] for pair in pairs]
    shorter = [[known + " 1" for known in pair] for pair in lengths]
    for unit, told in (("token", lengths), ("word", [["", ""]] * len(pairs)), ("word", shorter)):
        found = opened.ask(apart, list(zip(whole, told, strict=True)))
        for pair, (one, other), parted in zip(pairs, whole, found, strict=True):
            if one == other:
                assert parted is None
                continue
            left, right = parted["sides"]
            assert "".join(left) == one and "".join(right) == other
            assert left[0] == right[0] and left[1] != right[1]
            if one and other:
                assert parted["unit"] == unit
            if parted["unit"] == "token":
                place = next(n for n, (a, b) in enumerate(itertools.zip_longest(*pair)) if a != b)
                assert left[0] == "".join(pair[0][:place]) and parted["number"] == 2 * place + 2
                assert [left[1], right[1]] == [(text[place : place + 1] or [""])[0] for text in pair]
    [parted] = opened.ask(apart, [[["born in 1851.", "born in 1852."], ["", ""]]])
    assert parted["sides"] == [["born in ", "1851", "."], ["born in ", "1852", "."]]


def test_a_narrow_window_scrolls_downwards_only(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 400, "height": 800})
    opened.until("document.documentElement.scrollWidth <= 400")
    inside = ("figure", ".scroller", ".side", "pre", ".controls > *")
    ends = f"[...document.querySelectorAll('{', '.join(inside)}')].map(one => one.getBoundingClientRect().right)"
    opened.until(f"Math.max(...{ends}) <= 400")
    opened.page.set_viewport_size({"width": 1280, "height": 900})


def test_a_hundred_thousand_rows_stay_responsive(browser: Browser, frames: Frames, tmp_path: Path) -> None:
    """And what is not given, or cannot be read, is left out or said."""
    big = many(frames, settings=100, examples=1000)
    opened = open_page(browser, write_page(big, None, None, None, tmp_path))
    page = opened.page
    assert opened.mark("tables") < 5 and opened.mark("curves") < 15
    assert not page.is_visible("#headline-part") and not page.is_visible("#needles-part")
    assert "100,000 rows" in page.inner_text("#facts") and "difference" not in page.inner_text("#settings thead")
    page.locator("#answers-part").scroll_into_view_if_needed()
    page.wait_for_selector("#answer .sides", timeout=10_000)
    seconds = opened.ask(
        "async () => { const start = performance.now(); at('answers-b').selectedIndex = 57;"
        "at('answers-b').dispatchEvent(new Event('change')); await painted(); await painted();"
        "return (performance.now() - start) / 1000 }"
    )
    assert seconds < 2
    assert "1000 examples in both" in page.inner_text("#answers-count")
    assert page.locator("#flips li").count() < 60
    assert opened.said == []
    page.close()


def test_dense_alone_makes_a_page(frames: Frames, tmp_path: Path) -> None:
    dense = frames.records[frames.records["method"] == "dense"].reset_index(drop=True)
    alone = Frames(dense, frames.samples[frames.samples["method"] == "dense"].reset_index(drop=True))
    write_page(alone, compared(frames.records).head(0), headlines(frames.records).head(0), {}, tmp_path)
    page = json.loads(gzip.decompress(base64.b64decode(block(tmp_path / PAGE, "overview"))))
    assert set(page["records"]["difference"]) == {None} and set(page["records"]["flag"]) == {0}
    assert page["headline"]["method"] == [] and page["facts"]["records"] == len(dense)


def block(path: Path, name: str) -> str:
    return path.read_text(encoding="utf-8").split(f'id="{name}">')[1].split("<")[0]


def test_the_same_records_give_the_same_bytes(frames: Frames, written: Path, root: Path, tmp_path: Path) -> None:
    records = frames.records
    again = write_page(load(root), compared(records), headlines(records), load_prompts(root), tmp_path)
    assert again.read_bytes() == written.read_bytes()


@pytest.mark.parametrize("text", [*HOSTILE, "", "模😀", "\ud800"])
def test_packed_text_comes_back(text: str) -> None:
    packed = pack([text])
    assert packed.isascii() and "<" not in packed
    assert json.loads(gzip.decompress(base64.b64decode(packed))) == [text]
    with pytest.raises(ValueError):
        pack([float("nan")])
    assert [number(value) for value in (float("nan"), float("inf"), None, pd.NA, 2.0, 0.1)] == [*[None] * 4, 2, 0.1]


def test_prompts_lie_in_pieces_of_a_bounded_size_each_once() -> None:
    texts = {f"{place:016x}": "x" * (PIECE // 3) + str(place) for place in range(7)} | {"long": "y" * 2 * PIECE}
    prompts = Prompts({name: Prompt(text) for name, text in texts.items()})
    places = {name: prompts.place(name) for name in [*texts, *texts]}
    assert prompts.place("never kept") is None and len(set(places.values())) == len(texts)
    blocks = prompts.blocks
    for name, place in places.items():
        assert place is not None and blocks[f"prompts-{place[0]}"][place[1]] == texts[name]
    assert all(sum(map(len, piece)) <= PIECE or len(piece) == 1 for piece in blocks.values())
