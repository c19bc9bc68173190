"""Every refusal is one line: where or which option, with its value, what is wrong, and then what to do."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = [*(ROOT / "sine_jax").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
KINDS = ("ValueError", "UsageError", "Damaged", "Diverged")

# An option or an argument with its value, a file or another name that is shown, or what is missing altogether.
BEGINNING = re.compile(r"(--)?([\w.]|\{\})+=|\{\}|--[\w.]+ is missing:")
REMEDY = re.compile(r"; |: must be |^--\w+ is missing: (name|pass) |^nothing to evaluate: pass ")
# Taken into another message, which adds the remedy.
PARTS = ("the checkpoint is damaged", "not a checkpoint of this library", "{} {} instead of {}")
# Not about a value: nothing was given.
WITHOUT = ("nothing to evaluate: pass", "nothing to compare: {}")


def text_of(message: ast.expr) -> str | None:
    """A message with {} for its values; None for one that is made elsewhere."""
    if isinstance(message, ast.Constant) and isinstance(message.value, str):
        return message.value
    if isinstance(message, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in message.values)
    return None


def refusals(path: pathlib.Path) -> dict[int, str]:
    """Messages by line: of every error that is made, and of the rules that `config._refuse` checks."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        messages = []
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in KINDS:
                messages = node.args[:1]
            elif name == "_refuse":
                messages = [rule.elts[1] for rule in node.args if isinstance(rule, ast.Tuple)]
        found |= {message.lineno: text for message in messages if (text := text_of(message)) is not None}
    return found


EVERY = {f"{path.relative_to(ROOT)}:{line}": text for path in FILES for line, text in sorted(refusals(path).items())}


def test_there_are_refusals():
    assert len(EVERY) > 110


@pytest.mark.parametrize("where", EVERY)
def test_a_refusal_has_its_value_and_ends_with_the_remedy(where):
    text = EVERY[where]
    assert not any(word in text for word in ("?", "\n", " wants", "did you mean")) and not text.endswith("."), text
    if any(part in text for part in PARTS):
        return
    assert REMEDY.search(text), text
    assert BEGINNING.match(text) or text.startswith(WITHOUT), text
