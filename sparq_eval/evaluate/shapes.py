"""Is every part of a config of the kind that it must be? Composed by hand, it may be anything."""

from collections.abc import Mapping
from typing import Any

from sparq_eval.errors import UserError

PARTS = {"model": ("name",), "data": ("source", "root"), "needle": ("lengths", "depths")}


def check_shapes(config: Mapping[str, Any]) -> None:
    """UserError that names the first part that is of another kind."""
    for key, inner in PARTS.items():
        mapping(key, config[key], inner)
    for name, node in mapping("methods", config["methods"]).items():
        if not isinstance(mapping(f"methods.{name}", node, ("_target_",))["_target_"], str):
            raise UserError(f"methods.{name}._target_={node['_target_']}: must be the import path of a class")
    text("model.name", config["model"]["name"])
    text("data.source", config["data"]["source"])
    text("results_dir", config["results_dir"])
    for key, value in (("include_path", config["include_path"]), ("data.root", config["data"]["root"])):
        if value is not None:
            text(key, value)
    device = config["device"]
    if not isinstance(device, str) and not (isinstance(device, list) and all(isinstance(one, str) for one in device)):
        raise UserError(f"device={device}: must be a name or a list of names")
    if (grid := config.get("grid")) is not None:
        mapping("grid", grid, ("name",))


def mapping(key: str, value: Any, inner: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key}={value}: must have keys of its own" + (f": {', '.join(inner)}" if inner else ""))
    for name in inner:
        if name not in value:
            raise UserError(f"{key}.{name} is missing; {key} has {', '.join(value) or 'nothing'}")
    return value


def text(key: str, value: Any) -> None:
    if not isinstance(value, str) or not value or "\0" in value or not value.isprintable():
        raise UserError(f"{key}={value!r}: must be a name")
