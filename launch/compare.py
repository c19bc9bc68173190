r"""Compares evaluated runs, paired by user: every run with the first.

For example:

  Two models by the AUC within users; several seeds of one method count as one method:
    python -m launch.compare runs/sine runs/sasrec --metric=gauc
    python -m launch.compare runs/sine-1 runs/sine-2 runs/sine-3 runs/sasrec-1 runs/sasrec-2 --metric=gauc

  ... against a simple scorer of the same evaluation, by its name in the table:
    python -m launch.compare "runs/sine:user + item bias" runs/sine --metric=auc

  How far watched targets are ahead of skipped videos, in the whole catalogue:
    python -m launch.compare runs/sine runs/sasrec --protocol=full --metric=hr_gap@10 --json=comparison.json

Evaluate each run before (launch.evaluate), on the same data, split, protocol and candidates. For each run this prints
the mean, its spread over seeds, and the difference to the first run over the users for whom both have a value: with a
95 % interval over users and two p-values, each with Holm's adjustment over all runs compared here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.app import UsageError, launch_app, loading

if TYPE_CHECKING:
    from rich.table import Table

METRIC = flags.DEFINE_string("metric", "gauc", "The metric, by its name in evaluation/*.json.")
SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "Which held-out split.")
PROTOCOL = flags.DEFINE_enum(
    "protocol", "exposed", ["exposed", "full", "by_prefix"], "What targets were ranked against."
)
JSON = flags.DEFINE_string("json", None, "File to write the result to.")


def main(arguments: list[str]) -> None:
    """Compares the runs that the arguments name."""
    if len(arguments) < 2:
        given = " ".join(arguments) or "no run"
        raise UsageError(f"{given}: two runs or more are needed; name RUN RUN ..., each a run's folder or RUN:SCORER")
    with loading():
        from rich.console import Console

        from sine_jax import files
        from sine_jax.evaluation import comparison, report

    runs = [
        report.read_run(name, metric=METRIC.value, split=SPLIT.value, protocol=PROTOCOL.value) for name in arguments
    ]
    found = comparison.compare(runs, metric=METRIC.value)
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, report.WIDTH)
    console.print(table(found))
    if JSON.value is not None:
        files.write_whole(JSON.value, json.dumps(found, indent=2, allow_nan=False) + "\n")
        print(f"wrote {JSON.value}")


def table(found: Mapping[str, Any]) -> Table:
    """A row per method: its mean and its seeds, then how it differs from the first."""
    from rich import box
    from rich.table import Table

    tests = [name for name in ("wilcoxon", "permutation") if name in found["comparisons"][0]]
    names = [run for method in found["methods"] for run in method["runs"]]
    shared = os.path.commonprefix(names).rpartition("/")[0]  # a folder they all lie in
    begin = len(shared) + 1 if shared else 0
    result = Table(
        title=f"{found['metric']}, {found['protocol']}, {found['split']} of {found['data']['split_by']}: "
        f"each less {found['against'][begin:]}, paired by user" + (f"\nruns in {shared}" if shared else ""),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 1),
    )
    result.add_column("run", overflow="fold")
    columns = ["users", "mean", "seeds", "their std\n(range)", "users\nof both"]
    columns += [f"difference\n[{found['interval']['level']:.0%} over users]", *(f"{name} p\n(Holm)" for name in tests)]
    for name in columns:
        result.add_column(name, justify="right", no_wrap=True)
    first, *others = found["methods"]
    result.add_row(*_about(first, begin))
    for method, compared in zip(others, found["comparisons"], strict=True):
        difference, low, high = (_shown(compared[name], "+.4f") for name in ("difference", "low", "high"))
        p = (f"{_p(compared[name])} ({_p(compared[f'{name}_holm'])})" for name in tests)
        result.add_row(*_about(method, begin), f"{compared['users']:,}", f"{difference} [{low}, {high}]", *p)
    result.caption = "\n".join(_notes(found))
    result.caption_justify = "left"
    return result


def _about(method: Mapping[str, Any], begin: int) -> tuple[str, ...]:
    """A method's own cells; names of runs from this character on."""
    spread = f"{_shown(method['seeds_std'], '.4f')} ({_shown(method['seeds_range'], '.4f')})"
    return (
        _together([name[begin:] for name in method["runs"]]),
        f"{method['users']:,}",
        _shown(method["mean"], ".4f"),
        str(len(method["seeds"]) or "-"),
        spread if len(method["runs"]) > 1 else "-",
    )


def _together(names: Sequence[str]) -> str:
    """The runs of one method, as a shell would write them: sine-{1,2,3}."""
    if len(names) == 1:
        return names[0]
    prefix = os.path.commonprefix(names)
    return f"{prefix}{{{','.join(name[len(prefix) :] for name in names)}}}"


def _notes(found: Mapping[str, Any]) -> list[str]:
    """What the figures mean, and whom they leave out."""
    notes = ["interval: over users, for these seeds; Holm: over the runs of this table"]
    if "wilcoxon" not in found["comparisons"][0]:
        notes.append(f"no Wilcoxon: the values per user of {found['metric']}, which is pooled, are not to be ranked")
    left_out: dict[int, list[str]] = {}
    for compared in found["comparisons"]:
        left_out.setdefault(compared["users_without_both"], []).append(compared["method"])
    for number, names in left_out.items():
        if number:
            whom = f" ({', '.join(names)})" if len(left_out) > 1 else ""
            notes.append(f"left out: {number:,} users without a value of both{whom}")
    return notes


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if value >= 1e-4 else f"{value:.0e}"


def run() -> None:
    """The console script."""
    launch_app(main, takes_words=True, interrupted="nothing half-written is left; run the same command again")


if __name__ == "__main__":
    run()
