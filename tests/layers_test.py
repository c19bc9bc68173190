"""A room imports only from rooms of lower rows, and each outside package has its owners.

A room is a module of the package, or a folder of modules. Whatever is drawn here is the map of the house.
"""

import ast
import graphlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "sine_jax"
LAUNCH = PACKAGE.parent / "launch"

# From the words at the bottom to the tables and benchmarks at the top.
ROWS = [
    ["types", "config", "parallel", "progress", "plots", "files", "plain"],
    [
        *("presets", "official", "layers", "data", "batches"),
        *("losses", "sparse", "factors", "checkpoints", "workdir"),
    ],
    ["network", "optimizer", "analysis"],
    ["networks", "model"],
    ["objectives", "evaluation"],
    ["training"],
    ["run"],
    ["serving"],
    ["experiments", "benchmark"],
]

OWNERS = {  # rooms, or modules of a room
    "absl": [],
    "flax": ["layers", "network", "networks"],
    "matplotlib": ["plots"],
    "optax": ["evaluation.simple_scorers", "objectives", "optimizer", "sparse", "training"],
    "orbax": ["checkpoints"],
    "pandas": [],
    "narwhals": ["serving.estimator"],
    "polars": ["benchmark.speed", "data", "evaluation.memoryless", "evaluation.report", "serving"],
    "pyarrow": ["data.rawbytes", "data.rawtables", "serving"],
    "recbole": ["benchmark.recbole_worker"],
    "rich": ["evaluation.report", "progress"],
    "scipy": [
        "analysis.order",
        "analysis.signals",
        "evaluation.comparison",
        "evaluation.memory",
        "evaluation.simple_scorers",
        "factors",
    ],
    "tensorboardX": ["workdir"],
    "tensorflow": [],
    "tensorflow_datasets": ["data.records"],
    "torch": ["benchmark.recbole_worker"],
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


MODULES = {name_of(p): p for p in PACKAGE.rglob("*.py") if p.stem != "__init__"}
IMPORTED = {name: imported(path) for name, path in MODULES.items()}
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}


def room_of(name: str) -> str:
    return name.split(".")[0]


def ours(name: str) -> set[str]:
    """The modules of the package that a module imports."""
    return {other for other in MODULES if f"sine_jax.{other}" in IMPORTED[name]}


def test_every_room_has_a_row():
    assert sorted(ROW_OF) == sorted({room_of(name) for name in MODULES})


@pytest.mark.parametrize("room", ROW_OF)
def test_rooms_import_only_from_lower_rows(room):
    for name in (name for name in MODULES if room_of(name) == room):
        others = {room_of(other) for other in ours(name)} - {room}
        assert all(ROW_OF[other] < ROW_OF[room] for other in others), (name, others)


@pytest.mark.parametrize("room", ROW_OF)
def test_inside_a_room_there_is_no_circle(room):
    graph = {n: {o for o in ours(n) if room_of(o) == room} for n in MODULES if room_of(n) == room}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == set(graph)


@pytest.mark.parametrize("package", OWNERS)
def test_outside_packages_have_owners(package):
    users = {name for name, names in IMPORTED.items() if any(i.split(".")[0] == package for i in names)}
    owners = set(OWNERS[package])
    assert {name if name in owners else room_of(name) for name in users} == owners


def test_only_parallel_knows_devices():
    words = ("jax.pmap", "jax.devices", "jax.local_", "jax.device_count", "jax.process_")
    words += ("jax.default_backend", "jax.default_device")
    sources = {str(path): path.read_text() for path in [*MODULES.values(), *LAUNCH.glob("*.py")]}
    users = {path for path, source in sources.items() if any(word in source for word in words)}
    assert users == {str(PACKAGE / "parallel.py")}


def test_what_networks_are_made_of_asks_no_device():
    """The form of a computation is chosen before, by the platform: it may be lowered for one that is not here."""
    for name in MODULES:
        assert room_of(name) not in {"layers", "network", "networks"} or "parallel" not in ours(name), name


def test_folders_that_are_no_public_namespace_have_a_sentence_alone_in_their_init():
    public = {PACKAGE / name / "__init__.py" for name in ("batches", "layers", "networks")}
    for path in set(PACKAGE.rglob("*/__init__.py")) - public:
        assert len(ast.parse(path.read_text()).body) == 1, path


def test_the_library_does_not_import_its_launches():
    for names in IMPORTED.values():
        assert not any(name.split(".")[0] == "launch" for name in names)
