"""Every refusal of the data and of what is laid out from it says where, with the value, and what to do, in one line."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sine_jax"
FILES = [*sorted((PACKAGE / "data").glob("*.py")), PACKAGE / "batches/windows.py", PACKAGE / "batches/negatives.py"]


def refusals(path):
    """Line and message of each `raise ValueError(...)`; {} for values, without those made elsewhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and ast.unparse(node.exc.func) == "ValueError"
        ):
            (message,) = node.exc.args
            if isinstance(message, ast.Call):
                continue
            parts = message.values if isinstance(message, ast.JoinedStr) else [message]
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)


MESSAGES = [pytest.param(text, id=f"{path.stem}:{line}") for path in FILES for line, text in refusals(path)]


def test_there_are_refusals():
    assert len(MESSAGES) > 30


@pytest.mark.parametrize("text", MESSAGES)
def test_a_refusal_is_one_line_with_a_value_and_a_remedy(text):
    assert "{}" in text, text
    assert ";" in text or text.endswith("instead of {}"), text  # the latter is told as the cause of another one
    assert not any(word in text for word in ("?", "\n", " wants ", "did you mean")), text
