"""What is wrong is said in one line, with the value and then the remedy."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "sine_jax"


def messages() -> dict[str, ast.expr]:
    """What every ValueError of these rooms says, by file and line."""
    found = {}
    for path in [*PACKAGE.glob("evaluation/*.py"), *PACKAGE.glob("experiments/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ValueError":
                found[f"{path.parent.name}/{path.name}:{node.lineno}"] = node.args[0]
    return found


MESSAGES = messages()


def test_there_are_messages():
    assert len(MESSAGES) > 10


@pytest.mark.parametrize("where", MESSAGES)
def test_a_message_has_the_value_and_then_the_remedy(where):
    message = MESSAGES[where]
    assert isinstance(message, ast.JoinedStr) and any(isinstance(part, ast.FormattedValue) for part in message.values)
    text = "".join(part.value if isinstance(part, ast.Constant) else "<>" for part in message.values)
    assert not any(word in text for word in ("?", "\n", "wants", ". ")) and not text.endswith(".")
    wrong, _, remedy = text.partition("; ")
    assert wrong and remedy and "; " not in remedy, text
