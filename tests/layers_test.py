"""A module imports only from lower rows, and each outside package has one owner."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "sine_jax"
LAUNCH = PACKAGE.parent / "launch"

# From the words at the bottom to a run at the top; a module imports only from rows below its own.
ROWS = [
    ["types", "config", "recbole_worker"],
    ["presets", "parallel", "dropout", "losses", "metrics", "bootstrap", "packing", "progress", "scoring", "plots"],
    [
        "comparison",
        "dense",
        "fused_attention",
        "labels",
        "splits",
        "counting",
        "negatives",
        "windows",
        "cost",
        "sparse",
        "rawfiles",
        "synthetic",
        "signals",
    ],
    [
        "attention",
        "official",
        "candidates",
        "collation",
        "ingest",
        "pipeline",
        "analysis",
        "factorisation",
        "optimizer",
    ],
    ["analysis_report"],
    ["interests", "sources", "network"],
    [
        "networks.sine",
        "networks.sasrec",
        "networks.gru4rec",
        "networks.caser",
        "networks.din",
        "networks.comirec",
        "networks.sparse_interest",
        "networks.hstu",
        "networks.pnfrec",
        "networks.dfn",
        "networks.feedrec",
        "networks.dfar",
    ],
    ["networks.sasrec_c"],
    ["model"],
    ["objectives", "scorers", "datasets"],
    ["catalogue"],
    ["training", "evaluation", "preparation"],
    ["checkpoints", "workdir", "suites", "workloads"],
    ["report", "run", "hardware"],
    ["experiment", "benchmark"],
    ["benchmark_report", "benchmark_devices", "benchmark_preparation", "rival"],
    ["benchmark_cases"],
]

OWNERS = {
    "matplotlib": ["plots"],
    "absl": [],
    "orbax": ["checkpoints"],
    "tensorflow_datasets": ["datasets"],
    "scipy": ["comparison", "counting", "signals"],
    "tensorboardX": ["workdir"],
    "tensorflow": [],
    "torch": ["recbole_worker"],
    "recbole": ["recbole_worker"],
    "pandas": [],
}


def imported(path: pathlib.Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def name_of(path: pathlib.Path) -> str:
    """`model`, or `networks.sine`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {name_of(p): p for p in [*PACKAGE.glob("*.py"), *PACKAGE.glob("networks/*.py")] if p.stem != "__init__"}


def test_every_module_has_a_row():
    assert sorted(name for row in ROWS for name in row) == sorted(MODULES)


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_modules_import_only_from_lower_rows(row):
    below = {f"sine_jax.{name}" for lower in ROWS[:row] for name in lower}
    ours = {f"sine_jax.{name}" for name in MODULES}
    for name in ROWS[row]:
        assert imported(MODULES[name]) & ours <= below, name


@pytest.mark.parametrize("package", OWNERS)
def test_outside_packages_have_one_owner(package):
    users = {name for name, path in MODULES.items() if any(i.split(".")[0] == package for i in imported(path))}
    assert sorted(users) == OWNERS[package]


def test_only_parallel_knows_devices():
    words = ("jax.pmap", "jax.devices", "jax.local_", "jax.device_count", "jax.process_")
    sources = {path.stem: path.read_text() for path in [*MODULES.values(), *LAUNCH.glob("*.py")]}
    assert {name for name, source in sources.items() if any(word in source for word in words)} == {"parallel"}


def test_the_library_does_not_import_its_launches():
    for path in MODULES.values():
        assert not any(name.split(".")[0] == "launch" for name in imported(path))
