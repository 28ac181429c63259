"""What the explorer unpacks: the answers of one model and task under all settings, and prompts in pieces."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparq_eval.report.page.pack import Strings, numbers
from sparq_eval.results.prompts import Prompt

PIECE = 2**20  # characters of prompts that are unpacked together


class Prompts:
    """Texts of prompts, each in one piece, in the order in which they were asked for: like ones lie together."""

    def __init__(self, kept: Mapping[str, Prompt]) -> None:
        self.kept = kept
        self.places: dict[str, tuple[int, int]] = {}
        self.pieces: list[list[str]] = []
        self.room = 0

    def place(self, name: str) -> tuple[int, int] | None:
        """Piece and place in it; None for a prompt whose text was not kept."""
        if name not in self.kept:
            return None
        if name not in self.places:
            text = self.kept[name].text
            if not self.pieces or self.room < len(text):
                self.pieces.append([])
                self.room = PIECE
            self.places[name] = len(self.pieces) - 1, len(self.pieces[-1])
            self.pieces[-1].append(text)
            self.room -= len(text)
        return self.places[name]

    def references(self, name: str) -> Sequence[str]:
        return self.kept[name].references if name in self.kept else ()

    @property
    def blocks(self) -> dict[str, Any]:
        return {f"prompts-{number}": texts for number, texts in enumerate(self.pieces)}


def answers(samples: pd.DataFrame, rows: Mapping[int, np.ndarray], prompts: Prompts) -> dict[str, Any]:
    """rows: where in `samples` the rows of each record are, by the record's place among all.

    examples: columns with one value an example. records: for each record, columns with one value a row; `at` says
    which example. Outputs, the lengths of their tokens and references are places in `strings`.
    """
    every = samples.iloc[np.concatenate(list(rows.values()))]
    asked = every.drop_duplicates("index").sort_values("index")
    # a row that names its prompt speaks for those of the same example that are older than prompts, or than references
    pairs = every[every["prompt"] != ""].drop_duplicates(["index", "prompt"])
    told = np.array([bool(prompts.references(name)) for name in pairs["prompt"]], dtype=bool)
    named = pd.concat([pairs[told], pairs[~told]]).drop_duplicates("index").set_index("index")["prompt"]
    place = {index: number for number, index in enumerate(asked["index"])}
    strings = Strings()
    return {
        "examples": {
            "index": [int(index) for index in asked["index"]],
            "id": [str(name) for name in asked["id"]],
            "cluster": [str(name) for name in asked["cluster"]],
            "prompt_tokens": [int(count) for count in asked["prompt_tokens"]],
            "prompt": [prompts.place(named.get(index, "")) for index in asked["index"]],
            "references": [strings.column(prompts.references(named.get(index, ""))) for index in asked["index"]],
        },
        "records": {str(record): answered(samples.iloc[where], place, strings) for record, where in rows.items()},
        "strings": strings.all,
    }


def answered(rows: pd.DataFrame, place: Mapping[int, int], strings: Strings) -> dict[str, Any]:
    steps = rows["decode_steps"].to_numpy(dtype=float)
    share = np.divide(rows["sparse_steps"], steps, out=np.full(len(rows), np.nan), where=steps > 0)
    return {
        "at": [place[index] for index in rows["index"]],
        "score": numbers(rows["score"]),
        "output": strings.column(rows["output"]),
        "lengths": strings.column(rows["token_lengths"]),
        "generated": [int(count) for count in rows["generated_tokens"]],
        "sparse": numbers(share, 3),
        "layers": [int(count) for count in rows["layers_active"]],
        "truncated": np.flatnonzero(rows["truncated"]).tolist(),
        "not_finite": np.flatnonzero(~rows["finite"].to_numpy(dtype=bool)).tolist(),
    }
