"""What checks the shapes that functions say."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """With its arguments and result checked; not a function inside another, which would be compiled at each call."""
    return function if "<locals>" in function.__qualname__ else beartype(function)
