"""What others name cannot act on a terminal, in a table or in a page."""

import numpy as np
import pytest
from logs import random_log

from sine_jax import config
from sine_jax.evaluation import protocols, ranking, report, segments
from sine_jax.experiments import tables
from sine_jax.experiments.tables import Row
from sine_jax.plain import in_markdown, printable

NASTY = "[red]a|b\x1b[31m\x07\u202e<b>$x$"


def test_a_value_is_one_printable_line():
    assert printable("a\nb\x1b\u202e") == "a\\nb\\x1b\\u202e"
    assert printable("é 漢") == "é 漢" and printable(7) == "7"
    assert len(printable("x" * 100)) == 60 and printable("x" * 100, 200) == "x" * 100


@pytest.mark.parametrize(("value", "cell"), [("a|b", "a\\|b"), ("<b>_x_", "\\<b\\>_x_"), ("a\nb", "a\\\\nb")])
def test_a_cell_of_markdown_means_itself(value, cell):
    assert in_markdown(value) == cell


def test_a_name_is_one_cell_of_a_table_in_markdown():
    row = Row("x | y\n| z", {metric: [0.5] for metric in tables.METRICS})
    *_, line = tables.markdown([row]).splitlines()
    assert line.replace("\\|", "").count("|") == 3 + len(tables.METRICS) and "\\|" in line


def test_contexts_and_scorers_are_shown_as_they_are(capsys):
    log = random_log(num_users=30)
    log = log._replace(contexts=(np.arange(len(log.items)) % 2).astype(np.int16)[:, None])
    found = ranking.evaluate(log, config=config.Config(), num_items=50, part="test", protocol=protocols.EXPOSED)
    found.values[NASTY] = found.values["random"]
    apart = segments.of_task(log, found.task, ["context:tab"], contexts={"tab": [NASTY]})
    report.show(report.summarise(found._replace(segments=apart)))
    shown = capsys.readouterr().out
    assert shown.count("[red]a|b\\x1b[31m\\x07\\u202e<b>$x$") == 3  # two rows and a column
    assert all(c.isprintable() or c == "\n" for c in shown)
