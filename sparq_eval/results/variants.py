"""Records of one model and task that differ in more than method and settings must not be mixed: tell them apart."""

from collections import Counter, defaultdict
from typing import Any

from sparq_eval.progress import say
from sparq_eval.results.record import Identity, canonical

BACKEND = "protocol.backend"


def name_variants(records: list[dict[str, Any]]) -> dict[str, str]:
    """The variant of each record, by key: "" where there is one, else a letter, A for that with the most records.

    What decoded tells records apart only where one setting was decoded by several backends: in one run a method without
    a kernel stands beside others that have one. Says on standard error what the variants differ in.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["model"], record["identity"].task].append(record)
    names: dict[str, str] = {}
    for (model, task), group in sorted(groups.items()):
        conditions = conditions_by_key(group)
        counts = Counter(map(canonical, conditions.values()))
        ranked = sorted(counts, key=lambda condition: (-counts[condition], condition))
        letters = {condition: letter(place) if len(ranked) > 1 else "" for place, condition in enumerate(ranked)}
        names |= {key: letters[canonical(condition)] for key, condition in conditions.items()}
        if len(ranked) > 1:
            by_letter = {letters[canonical(condition)]: condition for condition in conditions.values()}
            differences = "; ".join(describe(name, by_letter) for name in differing(by_letter))
            say(f"variant: {model}, {task}: {len(ranked)} kinds of records, kept apart as they differ in {differences}")
    return names


def conditions_by_key(group: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What must be equal for two settings to be comparable, of each record of one model and task."""
    found = {record["key"]: conditions_of(record["identity"]) for record in group}
    plain = {key: {name: value for name, value in one.items() if name != BACKEND} for key, one in found.items()}
    settings = {record["key"]: [record["identity"].method, record["identity"].settings] for record in group}
    once = len({canonical([plain[key], settings[key]]) for key in found}) == len(found)
    return plain if once else found


def conditions_of(identity: Identity) -> dict[str, Any]:
    """Flattened to dotted names."""
    parts = {
        "model": identity.model,
        "data": identity.data,
        "protocol": identity.protocol,
        "versions": identity.versions,
    }
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


def differing(conditions: dict[str, dict[str, Any]]) -> list[str]:
    names = sorted({name for condition in conditions.values() for name in condition})
    return [name for name in names if len({canonical(one.get(name)) for one in conditions.values()}) > 1]


def describe(name: str, conditions: dict[str, dict[str, Any]]) -> str:
    values = ", ".join(f"{letter}: {canonical(one.get(name))}" for letter, one in sorted(conditions.items()))
    return f"{name} ({values})"


def letter(place: int) -> str:
    """A to Z, then AA, AB, …"""
    return (letter(place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)
