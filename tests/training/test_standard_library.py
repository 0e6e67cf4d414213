"""The embedded corpora: code that is the same program, and prose that has left nothing behind."""

import ast
import io
import tokenize

import pytest

from ontogeny.training import standard_library
from ontogeny.training.standard_library import separate

SOURCE = '''#!/usr/bin/env python
"""Module documentation, é."""
import os  # trailing
# one
# two

# --------
class Empty(Exception):
    """Only this."""


def call(x):
    """Says what.

    First:
        Indented.
    """
    # three
    return x + "# no comment" + \'\'\'"""# nor this\'\'\' + "\\\\"  # four


def short(): "one line"
'''


def test_separates_documentation_from_code() -> None:
    prose, code = separate(SOURCE)
    assert prose == (
        "/usr/bin/env python\nModule documentation, é.\n\ntrailing\none\ntwo\n\nOnly this.\n\n"
        "Says what.\n\nFirst:\n    Indented.\nthree\n\nfour\n\none line"
    )
    assert code == (
        "import os\n\nclass Empty(Exception):\n    pass\n\n\ndef call(x):\n"
        '    return x + "# no comment" + \'\'\'"""# nor this\'\'\' + "\\\\"\n\n\ndef short(): pass\n'
    )


class WithoutDocumentation(ast.NodeTransformer):
    """An independent way to the same: on the tree, not on the text."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


@pytest.mark.parametrize("module", [ast, tokenize, pytest, standard_library])
def test_code_is_the_same_program_without_comments(module: object) -> None:
    with open(str(getattr(module, "__file__", "")), encoding="utf-8") as file:
        source = file.read()
    _, code = separate(source)
    assert ast.dump(ast.parse(code)) == ast.dump(WithoutDocumentation().visit(ast.parse(source)))
    assert all(token.type != tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(code).readline))


def test_prose_holds_topics_and_compiled_modules() -> None:
    documents = list(standard_library.prose())
    assert any(document.startswith("Assignment statements") for document in documents[-200:])
    assert "Return the sine of x" in "".join(documents[-len(standard_library.COMPILED) :])
    assert sum(map(len, documents)) > 2_000_000
    assert sum(map(len, standard_library.code())) > 4_000_000
