"""A launch starts and ends as people expect: help, mistakes, Ctrl-C, closed pipes; a bug keeps its traceback."""

import ast
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHES = ("analyze", "benchmark", "compare", "evaluate", "experiment", "prepare", "recommend", "train")
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "PYTHONWARNINGS": "error"}

# A launch of its own; SIGINT as a shell's foreground has it, whatever runs the tests.
PROGRAM = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
from launch.app import UsageError, launch_app, loading, read_from_flags, say
def main():
{body}
launch_app(main, interrupted="nothing is kept")
"""


def launched(body: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A launch whose main runs `body`."""
    command = [sys.executable, "-c", PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    ")), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENV, timeout=100)


def run(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A launch of this repository."""
    command = [sys.executable, "-m", f"launch.{name}", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENV, timeout=100)


@pytest.mark.parametrize("error", ["ValueError('no such\\ncolumn')", "OSError('no such column')"])
def test_a_mistake_is_one_line_and_exit_code_1(error):
    done = launched(f"raise {error}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["-c: error: no such column"]


def test_an_error_of_the_system_names_its_file_first():
    assert launched("open('/nowhere/at/all')").stderr == "-c: error: /nowhere/at/all: No such file or directory\n"


def test_verbosity_shows_the_traceback_of_a_mistake():
    done = launched("raise ValueError('no such column')", "--verbosity=1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_bug_keeps_its_traceback():
    done = launched("raise KeyError('a bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_word_that_is_no_flag_is_refused():
    done = launched("print('ran')", "data=here")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "-c: error: data=here: not a flag; write --name=value\n"


@pytest.mark.parametrize(
    "body", ["raise UsageError('--a=1: no')", "with read_from_flags(): raise ValueError('--a=1: no')"]
)
def test_what_main_finds_wrong_with_its_flags_is_exit_code_2(body):
    done = launched(body)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "-c: error: --a=1: no\n")


def test_success_is_exit_code_0():
    done = launched("print('ran')")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr == ""


DATA, SUITE, LOG = ["--data=d", "--workdir=w"], ["--suite=main", "--data=d", "--out=o"], ["--source=log", "--out=o"]
SAMPLE = ["--source=sample", "--out=o"]

# Command lines that cannot be, and what is said of them, after which only the remedy may follow.
LISTS = ["--workdir=w", "--out=o"]
REFUSALS = [
    ("analyze", ["--data=d", "--out=o", "--session_gap=nan"], "--session_gap=nan: must be a number"),
    ("train", [], "--data is missing: give the folder of a prepared data set (launch.prepare)"),
    ("train", ["--data=d"], "--workdir is missing: give the folder of the run; made if it does not exist"),
    ("train", ["--nothing=3"], "--nothing: there is no such flag; see --help"),
    ("train", ["--workdri=3"], "--workdri: there is no such flag; the nearest is --workdir"),
    ("train", ["--dta=d"], "--dta: there is no such flag; the nearest are --data, --data.candidates"),
    ("train", [*DATA, "--model.dim=x"], "--model.dim=x: not a whole number; give one, such as 3"),
    ("train", [*DATA, "--model.dropout=x"], "--model.dropout=x: not a number; give one, such as 0.5"),
    ("train", [*DATA, "--model.fusion=x"], "--model.fusion=x: no such choice; choose one of "),
    ("train", [*DATA, "--objective.dcor=x"], "objective.dcor=x: "),
    ("train", [*DATA, "--model.num_interests=1"], "model.num_interests=1: "),
    ("train", ["--flagfile=none"], "--flagfile=none: No such file or directory; name another"),
    ("train", [*DATA, "word"], "word: not a flag; write --name=value"),
    ("evaluate", [], "nothing to evaluate: pass --workdir=RUN, or --data=FOLDER for the simple scorers alone"),
    ("evaluate", ["--split=all"], "--split=all: no such choice; choose one of valid, test"),
    ("evaluate", ["--data=d", "--split_by=by_time", "--train_until=-1"], "data.train_until=-1: "),
    (
        "evaluate",
        ["--workdir=w", "--split_by=by_time"],
        "--split_by=by_time: a run is evaluated on the split that it was trained with; leave this out",
    ),
    (
        "evaluate",
        ["--workdir=w", "--train_until=0"],
        "--train_until=0: a run is evaluated on the split that it was trained with; leave this out",
    ),
    ("compare", [], "no run: two runs or more are needed; name RUN RUN ..., each a run's folder or RUN:SCORER"),
    ("compare", ["a"], "a: two runs or more are needed; name RUN RUN ..., each a run's folder or RUN:SCORER"),
    ("analyze", ["--data=d"], "--out is missing: give the folder of the report; made if it does not exist"),
    ("analyze", ["--data=d", "--out=o", "--session_gap=-1"], "--session_gap=-1: must be a non-negative number"),
    ("analyze", ["--data=d", "--out=o", "--train_until=-1"], "data.train_until=-1: "),
    ("benchmark", [], "--out is missing: give the folder of the report; made if it does not exist"),
    ("benchmark", ["--out=o", "--repeats=0"], "--repeats=0: must be a positive integer"),
    ("experiment", ["--data=d", "--out=o"], "--suite is missing: choose one of main, ablation, interests"),
    ("experiment", [*SUITE, "--set=x"], "--set=x: not an option with a value; write section.option=value"),
    ("experiment", [*SUITE, "--set=model.dim=0"], "model.dim=0: "),
    ("experiment", [*SUITE, "--seeds=1,x"], "--seeds=1,x: not whole numbers; give whole numbers, separated by commas"),
    ("experiment", [*SUITE, "--only=("], "--only=(: not a regular expression (missing ), unterminated subpattern"),
    ("experiment", [*SUITE, "--only=zz"], "--only=zz: matches no row of main; choose from "),
    ("recommend", ["--out=o"], "--workdir is missing: give the folder of the run"),
    ("recommend", [*LISTS, "--k=0"], "--k=0: must be a positive integer"),
    ("recommend", [*LISTS, "--columns=c"], "--columns=c: it is for --histories; leave it out"),
    (
        "recommend",
        [*LISTS, "--histories=h"],
        "--columns is missing: pass --columns=user=NAME,item=NAME,time=NAME,watched=NAME",
    ),
    ("recommend", [*LISTS, "--histories=h", "--columns=c", "--data=d"], "--data=d: --histories replaces the data set"),
    ("prepare", [], "--source is missing: choose one of sample, log, mind, kuairand, wechat2021, released, synthetic"),
    ("prepare", ["--source=sample"], "--out is missing: name a folder that does not exist yet"),
    ("prepare", LOG, "--input is missing: --source=log reads a file or a folder; name it"),
    (
        "prepare",
        [*LOG, "--input=i"],
        "--columns is missing: pass --columns=user=NAME,item=NAME,time=NAME,watched=NAME (see --help)",
    ),
    ("prepare", [*SAMPLE, "--input=i"], "--input=i: --source=sample reads no file; leave --input out"),
    ("prepare", [*SAMPLE, "--columns=c"], "--columns=c: --source=sample has columns of its own; leave --columns out"),
    ("prepare", [*SAMPLE, "--export=e"], "--export=e: --source=sample is not drawn from a seed; leave --export out"),
    ("prepare", ["--source=synthetic", "--export=."], "--export=.: exists already; choose another name"),
]


@pytest.mark.parametrize(("name", "flags", "message"), REFUSALS, ids=lambda value: " ".join(value)[:40] or "nothing")
def test_flags_that_cannot_be_are_one_line_and_exit_code_2(tmp_path, name, flags, message):
    command = [sys.executable, "-m", f"launch.{name}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENV, timeout=100, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}.py: error: {message}")
    assert "?" not in line and "wants" not in line
    assert list(tmp_path.iterdir()) == []


def test_every_refusal_of_a_launch_stands_above():
    raised = []
    for name in LAUNCHES:
        for node in ast.walk(ast.parse((ROOT / "launch" / f"{name}.py").read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                (text,) = node.exc.args
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                form = "".join(re.escape(p.value) if isinstance(p, ast.Constant) else ".+" for p in parts)
                raised.append((name, form.split(";")[0]))
    assert len(raised) >= 14
    for name, form in raised:
        assert any(launch == name and re.match(form, message) for launch, _, message in REFUSALS), (name, form)


@pytest.mark.parametrize("name", LAUNCHES)
def test_help_is_the_docstring_and_the_flags_and_exit_code_0(name):
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    docstring = ast.get_docstring(ast.parse((ROOT / "launch" / f"{name}.py").read_text()))
    assert done.stdout.startswith(docstring.splitlines()[0])
    for flag in re.findall(
        r"(?m)^[A-Z_]+ = flags.DEFINE_\w+\(\s*\"(\w+)\"", (ROOT / "launch" / f"{name}.py").read_text()
    ):
        assert re.search(rf"--(\[no\])?{flag}\b", done.stdout), flag


HEAVY = """
import importlib, sys, types
package = types.ModuleType("sine_jax")  # without what its own __init__ imports
package.__path__ = [sys.argv[1]]
sys.modules["sine_jax"] = package
importlib.import_module(sys.argv[2])
heavy = {"jax", "jaxlib", "numpy", "flax", "optax", "orbax", "polars", "scipy", "matplotlib", "rich", "tensorboardX"}
print(*sorted((heavy | {"tensorflow_datasets"}) & set(sys.modules)))
"""


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_launch_imports_nothing_heavy_before_it_runs(name):
    command = [sys.executable, "-c", HEAVY, str(ROOT / "sine_jax"), f"launch.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENV, timeout=100)
    assert done.stdout == "\n"


def test_choices_and_defaults_that_a_launch_repeats_are_those_of_the_library():
    from launch import prepare
    from sine_jax.data import cells, rawtext, sources, synthetic
    from sine_jax.evaluation import protocols

    assert prepare.SOURCES == list(sources.SOURCES)
    assert prepare.UNITS == list(cells.MILLISECONDS)
    assert set(prepare.SEPARATORS.values()) == set(rawtext.SEPARATORS)
    for launch in ("compare", "evaluate"):
        names = ast.literal_eval(
            re.search(r'"protocol", "exposed", (\[.*?\])', (ROOT / "launch" / f"{launch}.py").read_text())[1]
        )
        assert names == list(protocols.PROTOCOLS)
    drawn = [prepare.SEED, prepare.NUM_USERS, prepare.NUM_ITEMS, prepare.NUM_EXPOSURES, prepare.NUM_INTERESTS]
    assert synthetic.Settings(
        *(flag.default for flag in (*drawn, prepare.AFFINITY, prepare.SKIP_EFFECT, prepare.SKIP_DECAY))
    ) == (synthetic.Settings())


def test_the_first_line_is_there_before_anything_heavy_is_imported():
    done = launched("say('jax' in sys.modules)\nwith loading(): say('jax' in sys.modules)")
    assert done.stderr.splitlines() == ["False", "-c: loading JAX and the library", "True"]


def test_a_refusal_after_the_first_line_is_one_line_too(tmp_path):
    """By what only the library knows: the names of the cases, and what a folder holds."""
    for name, flags, code, told in (
        ("benchmark", ["--cases=none", f"--out={tmp_path / 'out'}"], 2, "--cases=none: there is no 'none'; choose"),
        ("compare", [f"{tmp_path}/a", f"{tmp_path}/b"], 1, f"{tmp_path}/a: "),
    ):
        done = run(name, *flags)
        assert (done.returncode, done.stdout) == (code, "")
        first, error = done.stderr.splitlines()
        assert first == f"{name}.py: loading JAX and the library"
        assert error.startswith(f"{name}.py: error: {told}")


@pytest.mark.parametrize("name", LAUNCHES)
def test_every_launch_loads_in_its_main_and_says_so(name):
    tree = ast.parse((ROOT / "launch" / f"{name}.py").read_text())
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    loads = [node for node in main.body if isinstance(node, ast.With) and ast.unparse(node.items[0]) == "loading()"]
    assert len(loads) == 1 and all(isinstance(node, ast.Import | ast.ImportFrom) for node in loads[0].body)
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in main.body)


@pytest.mark.parametrize(
    "body",
    [
        "for number in range(100_000): print(number)",
        "print('few')",
        "from rich.console import Console\nfor number in range(100_000): Console().print(number)",
    ],
)
def test_a_reader_that_goes_away_is_met_with_silence(body):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=textwrap.indent(f"sys.stdin.read()\n{body}", "    "))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENV,
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(100) == 141


def test_help_into_a_pipe_that_is_closed_is_silent():
    command = [sys.executable, "-m", "launch.train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(100) in (0, 141)


PRESS = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(
    "body",
    [
        PRESS,
        f"with loading():\n    try: {PRESS}\n    except: print('lost')",
        f"with loading(): pass\n{PRESS}",
        f"""
        with loading(): pass
        try: {PRESS}
        except KeyboardInterrupt: raise ImportError('as extension modules do')
        """,
        f"""
        with loading(): pass
        import launch.app, time
        launch.app.GRACE = 0.0
        try: {PRESS}
        except KeyboardInterrupt: time.sleep(100)
        """,
    ],
    ids=["flags", "imports", "main", "in another error", "lost"],
)
def test_ctrl_c_says_in_one_line_what_is_kept(body):
    done = launched(f"print('a result')\n{textwrap.dedent(body)}")
    assert (done.returncode, done.stdout) == (130, "a result\n")
    lines = [line for line in done.stderr.splitlines() if not line.endswith("loading JAX and the library")]
    assert lines == ["-c: interrupted: nothing is kept"]


def test_ctrl_c_cleans_up_where_it_can():
    done = launched(f"with loading(): pass\ntry: {PRESS}\nfinally: print('cleaned up')")
    assert (done.returncode, done.stdout) == (130, "cleaned up\n")


def test_ctrl_c_while_python_does_not_run_says_so_and_the_next_one_ends_it():
    """Compiling does not come back to Python; here the main thread cannot, as it holds the signal back."""
    body = """
        with loading(): pass
        import time
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        def press():
            for _ in range(2):
                time.sleep(1.5)
                os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=press, daemon=True).start()
        time.sleep(100)
    """
    done = launched(body)
    assert done.returncode == 130
    *_, told, ended = done.stderr.splitlines()
    assert told == "-c: stopping when this computation is done; press Ctrl-C again to stop at once"
    assert ended == "-c: interrupted: nothing is kept"


def test_ctrl_c_before_a_launch_has_read_its_flags_is_one_line_too():
    body = "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    body += f"sys.argv[0] = '-m'\nimport launch\n{PRESS}"
    done = subprocess.run(
        [sys.executable, "-c", body], capture_output=True, text=True, check=False, env=ENV, timeout=100
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted: nothing was begun; run the same command again\n"


def test_a_full_disk_is_told_by_the_one_error_alone():
    body = """
        import logging
        def fail(text): raise OSError(text)
        for text in ("No space left on device", "another"):
            thread = threading.Thread(target=fail, args=[text], name=text.split()[0])
            thread.start()
            thread.join()
        try: fail("No space left on device")
        except OSError: logging.getLogger("absl").exception("a thread failed")
        raise ValueError("runs/a: the disk is full")
    """
    done = launched(body)
    assert done.returncode == 1
    assert "another" in done.stderr and "No space" not in done.stderr and "a thread failed" not in done.stderr
    assert done.stderr.splitlines()[-1] == "-c: error: runs/a: the disk is full"


SCRIPT = """
import jax
from launch.app import keep_compiled_programs
keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x * 2 + 1)(1.0)
"""


@pytest.mark.parametrize("named", [True, False])
def test_compiled_programs_are_kept_where_told(tmp_path, named):
    mine = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "named")} if named else {"XDG_CACHE_HOME": str(tmp_path)}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))} | mine
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, env={**env, "JAX_PLATFORMS": "cpu"}, timeout=100)
    assert os.listdir(tmp_path) == ["named" if named else "sine_jax"]
    assert os.listdir(tmp_path / ("named" if named else "sine_jax"))
