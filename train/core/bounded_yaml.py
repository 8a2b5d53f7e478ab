"""YAML that cannot keep its reader busy: a file may not stand for more than it could spell out."""

import yaml

MOST_CHARACTERS = 2**20
MOST_VALUES = 100_000
MOST_NESTED = 50


class BoundedLoader(yaml.SafeLoader):
    """SafeLoader that refuses what is larger, deeper or, aliases written out, longer than the bounds, or holds itself.

    A few lines of aliases to aliases stand for billions of values ("billion laughs"); whoever walks them never ends.
    """

    def __init__(self, stream: str) -> None:
        if len(stream) > MOST_CHARACTERS:
            raise yaml.YAMLError(f"it has {len(stream)} characters, and a config may have {MOST_CHARACTERS}")
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MOST_NESTED:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested more than {MOST_NESTED} deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            problem = f"its aliases stand for more than {MOST_VALUES} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node


def _values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Number of values that a node stands for, every alias written out. `known`: those counted; None: being counted."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise yaml.MarkedYAMLError(problem="an alias inside of what it stands for", problem_mark=node.start_mark)
        return count
    known[id(node)] = None
    inner = node.value if isinstance(node, yaml.CollectionNode) else ()
    parts = [part for pair in inner for part in pair] if isinstance(node, yaml.MappingNode) else inner
    count = known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return count
