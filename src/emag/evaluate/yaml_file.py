"""YAML as plain data, every key once: a second recipe of a name would else take the place of the first."""

from collections.abc import Hashable
from typing import Any

import yaml

from .yaml_size import refuse_bombs


class _OnceLoader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = [key for at, key in enumerate(keys) if key in keys[:at]]
        if twice:
            raise yaml.constructor.ConstructorError(problem=f"{twice[0]!r} is there twice: give each a name of its own",
                                                    problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    """What a text in YAML holds. Raises `yaml.YAMLError`, also where a key stands twice, or where it would grow."""
    refuse_bombs(text)
    return yaml.load(text, _OnceLoader)
