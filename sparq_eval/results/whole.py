"""Files that are written whole or not at all."""

import os
from pathlib import Path

from sparq_eval.errors import UserError


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` in one step: a reader sees the old file or the new one. UserError if it cannot be written."""
    aside = path.parent / f".{path.name}.{os.getpid()}.aside"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        place = os.open(path.parent, os.O_RDONLY)
        os.fsync(place)
        os.close(place)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); choose another folder") from error
    return path
