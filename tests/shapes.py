"""What has its shapes checked in tests: what says some, since a check costs about what a small function does."""

import ast
from typing import Any

from beartype import beartype as beartype
from jaxtyping import _import_hook


class Shaped(_import_hook.JaxtypingTransformer):
    """Classes and functions that say a shape; but no function inside another, which would be compiled at each call."""

    def visit_Module(self, node: ast.Module) -> Any:  # noqa: N802
        self.shapes: set[str] = set()
        for statement in node.body:  # from jaxtyping import Float, then names such as Stack = Float[Tensor, "n d k"]
            if isinstance(statement, ast.ImportFrom) and statement.module == "jaxtyping":
                self.shapes |= {alias.name for alias in statement.names}
            elif isinstance(statement, ast.Assign) and self.shapes & _names(statement.value):
                self.shapes |= _names(*statement.targets)
        return super().visit_Module(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:  # noqa: N802
        return super().visit_ClassDef(node) if self.shapes & _names(node) else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:  # noqa: N802
        of_its_own = isinstance(self._parents[-1], ast.Module | ast.ClassDef)
        return super().visit_FunctionDef(node) if of_its_own and self.shapes & _names(node) else node


def _names(*nodes: ast.AST) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


_import_hook.JaxtypingTransformer = Shaped  # type: ignore[misc]
