"""Every refusal is one line: where or which option, with its value, what is wrong, and then what to do."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = [*(ROOT / "sine_jax").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
KINDS = ("ValueError", "UsageError", "Damaged", "Diverged", "OtherVersion")

# An option or an argument with its value, a file or another name that is shown, or a flag that is missing.
BEGINNING = re.compile(r"(--)?([\w.]|\{\})+=|\{\}[:,]|--\w+ is missing:")
# Messages that begin in another way: nothing was given, or two things are compared.
OTHERWISE = ("nothing to evaluate: ", "nothing to compare: {}; ", "{} cannot be compared with {}: {}; ")
OTHERWISE += (
    "{}; make the model by ",
    "{}; use another checkpoint",
    "{} of {} scores are NaN: ",
    "model.name={} needs ",
    "model.read_times=True has no effect with ",
)
# Causes of another message, which adds the remedy.
CAUSES = ("{}: the checkpoint is damaged ({})", "{} {} instead of {}")
REMEDY = re.compile(
    r"(; |^--\w+ is missing: |^nothing to evaluate: )(build|choose|close|copy|draw|escape|evaluate|free|give|keep|lay|"
    r"leave|let|lower|make|map|mend|name|pad|pass|prepare|read|rename|run|save|set|split|train|unpack|use|write)\b|"
    r": must be |; \{\}"  # the last is written elsewhere
)


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
    assert not any(word in text for word in ("?", "\n", " wants", "did you mean", "Failed"))
    assert not text.endswith(".") and (". " not in text.replace("the disk is full. {}", "")), text
    assert "{}" in text or "=" in text or "is missing" in text or text.startswith(OTHERWISE), text
    if text in CAUSES:
        return
    assert REMEDY.search(text), text
    assert BEGINNING.match(text) or text.startswith(OTHERWISE), text


def test_messages_that_are_made_elsewhere_are_few():
    """Those of `_refuse` are checked above; `_complaint` has tests of its own; the rest are raised again."""
    made = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in KINDS:
                made += [ast.unparse(node.args[0])] * (text_of(node.args[0]) is None)
    assert sorted(made) == ["_complaint(piece, raw, flags, bad, checks)", "message", "str(error)", "told"]
