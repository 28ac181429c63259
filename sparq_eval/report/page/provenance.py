"""What made each record: what its record.json says of model, data, protocol, versions, and of the runs behind it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparq_eval.results.frames import Untrusted, read_record
from sparq_eval.results.record import plain

PARTS = ("model", "data", "protocol", "versions")


@dataclass
class Provenance:
    """parts: JSON values that records share, each once. records: for each record {part: place, runs: [places]}, or
    {why: text} where its record.json cannot be read.
    """

    parts: list[Any] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def read(folders: Iterable[str]) -> "Provenance":
        """Of the records in `folders`, in their order."""
        found, places = Provenance(), dict[str, int]()

        def place(value: object) -> int:
            value = plain(value)
            text = json.dumps(value, sort_keys=True)
            if text not in places:
                places[text] = len(found.parts)
                found.parts.append(value)
            return places[text]

        for folder in folders:
            try:
                content = read_record(Path(folder))
            except Untrusted as why:
                found.records.append({"why": str(why)})
                continue
            said = {part: place(content["identity"][part]) for part in PARTS}
            if content.get("decoding"):
                said["decoding"] = place(content["decoding"])
            found.records.append({**said, "runs": [place(run) for run in content["runs"]]})
        return found

    @property
    def content(self) -> dict[str, Any]:
        return {"parts": self.parts, "records": self.records}

    def said(self, name: str) -> list[str]:
        """All values of one field of the runs, as text, in the order of records."""
        places = dict.fromkeys(place for record in self.records for place in record.get("runs", ()))
        values = [self.parts[place].get(name) for place in places]
        return list(dict.fromkeys(str(value) for value in values if value))
