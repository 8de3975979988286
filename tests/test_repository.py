"""Laws of the house.

Floors, sizes, style, entry files, configurations, public names, the README, docs and citations of them.
"""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import geo4d

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PACKAGE = sorted((ROOT / "geo4d").rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
DOCS = sorted((ROOT / "docs").glob("*.md"))
CITED = {name: ROOT / "docs" / f"{name}.md" for name in ("method", "compat")}  # sections are cited as (method 2.4)
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ENTRY_LINES = 500, 80, 20
MAX_TRACKED_BYTES, MAX_WEIGHT_BYTES = 90 << 20, 64 << 20


def run_tool(name, *words):
    tool = shutil.which(name, path=str(BIN))
    if tool is None:
        pytest.skip(f"{name} is not installed")
    result = subprocess.run([tool, *words], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]


def relative(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize(
    "words",
    [("lint-imports",), ("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy", "geo4d")],
    ids=" ".join,
)
def test_lint(words):
    run_tool(*words)


def test_files_and_functions_keep_their_size():
    found = []
    for file in PACKAGE:
        text = file.read_text()
        if text.count("\n") > MAX_FILE_LINES:
            found.append(f"{file}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
            ):
                found.append(f"{file}:{node.lineno} {node.name}")
    assert not found


def calls(file, wanted):
    """Lines of the calls of methods or functions of modules that `wanted` picks.

    It is asked with (owner, name, number of arguments).
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            count = len(node.args) if not any(isinstance(word, ast.Starred) for word in node.args) else None
            if wanted(ast.unparse(node.func.value), node.func.attr, None if node.keywords else count):
                yield f"{file.relative_to(ROOT)}:{node.lineno}"


def moves(owner, name, count):
    """os.replace, os.rename, shutil.move and the methods of paths; those of strings take two arguments."""
    return (owner, name) in {("os", "replace"), ("os", "rename"), ("shutil", "move")} or (
        name in {"replace", "rename"} and count == 1
    )


def reads(owner, name, _):
    """numpy's and json's own readers, which believe sizes, wait for pipes and follow any nesting."""
    return (owner, name) in {("np", "load"), ("numpy", "load"), ("json", "load"), ("json", "loads")}


def outside(wanted, allowed):
    return [place for file in PACKAGE if str(file.relative_to(ROOT)) not in allowed for place in calls(file, wanted)]


def test_one_room_writes_whole_files_and_reads_arrays_and_json(tmp_path, monkeypatch):
    reasons = {
        "geo4d/scene/atomic.py": "the one way",
        "geo4d/training/checkpoints.py": "folders: flushed to the disk before they are moved, moved away, then removed",
    }
    assert outside(moves, reasons) == []
    assert {place.partition(":")[0] for place in outside(moves, ())} == set(reasons)  # none that needs no exception
    assert outside(reads, {"geo4d/scene/arrays.py"}) == []
    sample = tmp_path / "sample.py"
    sample.write_text("os.replace(a, b)\na.rename(b)\na.replace(b)\n'a'.replace('b', 'c')\nreplace(a, b=c)\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert list(calls(sample, moves)) == ["sample.py:1", "sample.py:2", "sample.py:3"]
    sample.write_text("np.load(a)\njson.load(b)\njson.loads(c)\njson.dumps(d)\nread_json(e)\n")
    assert list(calls(sample, reads)) == ["sample.py:1", "sample.py:2", "sample.py:3"]


def test_no_two_classes_bear_one_name():
    files = {}
    for file in PACKAGE:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                files.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert len(files) > 100
    assert {name: found for name, found in files.items() if len(found) > 1} == {}


def test_nothing_is_patched_on_at_import():
    """No module gives attributes to what it imports: a class is complete where it is written."""
    found = []
    for file in PACKAGE:
        tree = ast.parse(file.read_text())
        imported = {
            (alias.asname or alias.name).partition(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        found += [
            f"{file.relative_to(ROOT)}:{target.lineno}"
            for target in targets
            if isinstance(target, ast.Attribute) and ast.unparse(target).partition(".")[0] in imported
        ]
    assert found == []


@pytest.mark.parametrize("file", ["train/train.py", "infer/infer.py"])
def test_entry_files_are_thin_and_run(file):
    assert len((ROOT / file).read_text().splitlines()) < MAX_ENTRY_LINES
    result = subprocess.run(
        [sys.executable, ROOT / file, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("file", CONFIGS, ids=relative(CONFIGS))
def test_every_config_loads(file):
    from geo4d.config import load_config
    from geo4d.evaluation.ablation import AblateConfig
    from geo4d.training.config import StageConfig

    if file.parent.name == "ablate":
        assert load_config(AblateConfig, [file]).variants
        return
    assert file.parents[1].name == "train", "say here which dataclass files of a new folder fill"
    common = file.with_name("common.yaml")  # what `${out}` in the other files stands for
    assert load_config(StageConfig, [common, file]) != StageConfig()


def test_public_names_resolve():
    for name in geo4d.__all__:
        assert getattr(geo4d, name) is not None
    assert set(geo4d.__all__) <= set(dir(geo4d))
    with pytest.raises(AttributeError, match="no_such_name"):
        geo4d.no_such_name  # noqa: B018


def readme_blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_names_what_there_is():
    text = (ROOT / "README.md").read_text()
    from geo4d.cli import VERBS

    assert [f"geo4d {verb}" for verb in VERBS if f"geo4d {verb}" not in text] == []
    tree = text.partition("## The tree")[2]
    rooms = [path.parent.name for path in (ROOT / "geo4d").glob("*/__init__.py")]
    assert [room for room in rooms if f"{room}/" not in tree] == []
    assert "make demo" in text
    assert "make test" in text
    assert all((ROOT / image).is_file() for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))


def test_slow_tests_are_left_out_until_they_are_asked_for(pytestconfig):
    """`make test` leaves them out, `make test-slow` runs them alone, and continuous integration runs both."""
    assert [line.partition(":")[0] for line in pytestconfig.getini("markers") if line.startswith("slow")] == ["slow"]
    assert "-m 'not slow'" in (ROOT / "pyproject.toml").read_text()
    rules = dict(re.findall(r"^(test[\w-]*): setup\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert rules == {"test": "$(PYTEST)", "test-slow": "$(PYTEST) -m slow"}
    assert [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make")] == [
        "make test",
        "make test-slow",
    ]
    assert all(f"make {rule} " in (ROOT / "README.md").read_text() for rule in rules)


def test_readme_imports_are_public():
    for block in readme_blocks():
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                assert node.module == "geo4d"
                assert [alias.name for alias in node.names if alias.name not in geo4d.__all__] == []


@pytest.mark.slow
@pytest.mark.weights
def test_readme_blocks_run(tmp_path, monkeypatch):
    from geo4d.evaluation.demo import demo_video
    from geo4d.pipeline import Geo4D
    from geo4d.scene.files.windows import save_windows

    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_video(), "video.mp4")
    save_windows("windows.npz", Geo4D.from_pretrained("small").predict("video.mp4"))
    for block in readme_blocks():
        exec(compile(block, "README.md", "exec"), {})  # our own text
    assert (tmp_path / "out" / "reconstruction.json").is_file()


def citing_lines():
    """Every line that may cite a section or an equation, with where it stands.

    Not those of this file, which speaks of citations.
    """
    rooms = ("geo4d", "tests", "benchmarks", "configs", "train", "infer", "docs")
    files = [path for room in rooms for path in (ROOT / room).rglob("*") if path.suffix in {".py", ".md", ".yaml"}]
    for path in sorted([*files, *ROOT.glob("*.md")]):
        if path != Path(__file__).resolve():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                yield f"{path.relative_to(ROOT)}:{number}", line


def headings(path):
    return set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", path.read_text(), re.MULTILINE))


def unresolved(lines, sections):
    """Citations of sections that are not there, and those in another spelling than (method 2.4).

    Nothing could check the latter.
    """
    found = []
    old = r"\b(?:METHOD|COMPAT|SCHEMA)\b|(?i:\b(?:method|compat)(?:\.md [0-9]| section| §)|\bthe schema\b)"
    for where, line in lines:
        cited = re.findall(r"\b(method|compat) (\d+(?:\.\d+)?)", line, re.IGNORECASE)
        found += [f"{where}: {name} {number}" for name, number in cited if number not in sections[name.lower()]]
        found += [f"{where}: {spelt}" for spelt in re.findall(old, line)]
    return found


def test_every_citation_resolves():
    sections = {name: headings(path) for name, path in CITED.items()}
    assert {"1", "2.4", "7"} <= sections["method"] and {"1", "10"} <= sections["compat"]
    lines = list(citing_lines())
    assert sum("(method " in line for _, line in lines) > 20
    assert unresolved(lines, sections) == []
    wrong = [
        "(method 99)",
        "see compat 4.7",
        "METHOD section 2",
        "COMPAT section 4",
        "docs/method.md 2",
        "method section 2",
        "see the schema",
    ]
    assert [len(unresolved([("here", line)], sections)) for line in wrong] == [1] * len(wrong)


def test_every_cited_equation_is_in_the_docs():
    cited, formulas = (
        {},
        set(re.findall(r"^ +Eq\. (\d+) {2,}\S", (ROOT / "docs" / "method.md").read_text(), re.MULTILINE)),
    )
    for where, line in citing_lines():
        for first, last in re.findall(r"\bEqs?\. ?(\d+)(?: (?:to|and) (\d+))?", line):
            cited |= dict.fromkeys(range(int(first), int(last or first) + 1), where)
    assert {3, 6, 10} <= set(cited)
    assert {number: where for number, where in cited.items() if str(number) not in formulas} == {}


def test_docs_name_what_there_is():
    """Links of docs and README, and files and folders of the repository that they name."""
    assert {"method.md", "compat.md", "windows_format.md", "glossary.md"} <= {path.name for path in DOCS}
    readme = (ROOT / "README.md").read_text()
    assert [path.name for path in DOCS if f"(docs/{path.name})" not in readme] == []
    rooms = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    missing = []
    for path in [*DOCS, ROOT / "README.md"]:
        text = path.read_text()
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
        missing += [f"{path.name}: {link}" for link in links if link and not (path.parent / link).exists()]
        named = re.findall(rf"`((?:{rooms})/[\w./-]+)`", text) if path != ROOT / "README.md" else []
        missing += [f"{path.name}: {name}" for name in named if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCS, ids=relative(DOCS))
def test_docs_blocks_are_code(path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
        ast.parse(block)


@pytest.mark.slow
def test_docs_example_runs(tmp_path, monkeypatch):
    """The file that the example writes is aligned by the command beside it, and what comes out is the scene."""
    from geo4d.cli import main

    text = (ROOT / "docs" / "windows_format.md").read_text()
    blocks, commands = re.findall(r"```python\n(.*?)```", text, re.DOTALL), re.findall(r"```\n(geo4d .*?)\n```", text)
    assert len(blocks) == len(commands) == 1
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(blocks[0], "windows_format.md", "exec"), names)  # our own text
    assert main([*shlex.split(commands[0])[1:], "--no-preview"]) == 0
    result = geo4d.Reconstruction.load("result")
    assert result.valid.all()
    ratio = np.asarray(result.depth) / names["depth"]
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-3)
    np.testing.assert_allclose(result.cam_to_world[:, :3, 3], np.median(ratio) * names["centres"], atol=1e-3)
    np.testing.assert_allclose(result.intrinsics[:, 0, 0], 50, rtol=1e-3)


def tracked_files():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_tracked_files_stay_small():
    sizes = {path: path.stat().st_size for path in tracked_files()}
    assert sum(sizes.values()) < MAX_TRACKED_BYTES
    assert sum(size for path, size in sizes.items() if path.suffix == ".safetensors") <= MAX_WEIGHT_BYTES


def test_no_path_of_any_machine():
    bad = re.compile(
        "|".join(["/" + top + "/" for top in ("home", "Users", "work", "root")])
        + r"|index-url|find-links|breakpoint\(\)"
    )
    text_files = [
        path
        for path in tracked_files()
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".txt"} or path.name == "Makefile"
    ]
    found = []
    for path in text_files:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if bad.search(line) and path != Path(__file__).resolve():
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found


ALIGNMENT = ROOT / "geo4d" / "alignment"
ORDERING = ("align.py", "incremental.py", "__init__.py")  # what may call `align`'s steps in order


def imported(tree):
    """Modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_steps_of_the_alignment_are_ordered_in_one_place():
    """No step imports what orders it, so that data goes down once."""
    found = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted(ALIGNMENT.rglob("*.py"))
        if file.relative_to(ALIGNMENT).as_posix() not in ORDERING
        for name in imported(ast.parse(file.read_text()))
        if name in ("geo4d.alignment", "geo4d.alignment.align", "geo4d.alignment.incremental")
    ]
    assert not found


def test_the_subrooms_of_the_alignment_depend_one_way():
    """joint -> bundle -> depth -> draft -> fallback, reference, finish: each knows those before it alone."""
    order = ["joint", "bundle", "depth", "fallback", "reference", "finish"]
    allowed = {room: set(order[: k + 1]) for k, room in enumerate(order)}
    allowed["reference"] -= {"fallback", "bundle"}
    allowed["finish"] -= {"fallback", "reference"}
    found = []
    for room in order:
        for file in sorted((ALIGNMENT / room).rglob("*.py")):
            for name in imported(ast.parse(file.read_text())):
                part = name.removeprefix("geo4d.alignment.").split(".")[0]
                if name.startswith("geo4d.alignment.") and part in order and part not in allowed[room]:
                    found.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not found


def test_no_step_changes_a_finished_result():
    """A function from a Reconstruction to one is in the last step, in io, or makes a copy of the result."""
    found = []
    for file in PACKAGE:
        place = file.relative_to(ROOT / "geo4d").as_posix()
        if place.startswith(("alignment/finish/", "io/", "scene")):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.FunctionDef)
                and node.returns is not None
                and ast.unparse(node.returns) == "Reconstruction"
            ):
                kinds = [
                    ast.unparse(a.annotation)
                    for a in [*node.args.args, *node.args.kwonlyargs]
                    if a.annotation is not None
                ]
                if "Reconstruction" in kinds:
                    found.append(f"{place}:{node.lineno} {node.name}")
    assert not found


def test_there_is_one_damped_loop_and_one_place_of_robust_losses():
    """By how they are spelt: a weight 1 / (1 + r^2), a log1p of squares, a damping that is raised."""
    loops, losses = [], []
    for file in PACKAGE:
        place = file.relative_to(ROOT / "geo4d").as_posix()
        if not place.startswith(("alignment/", "solver/", "geometry/", "tracks/", "matching/")):
            continue
        text = file.read_text()
        if re.search(r"damping\s*\*|factor \* d\.raise_by", text) and "while" in text:
            loops.append(place)
        if re.search(r"1 / \(1 \+ [^)]*square|log1p\(", text):
            losses.append(place)
    assert loops == ["solver/lm.py"]
    assert set(losses) <= {"solver/robust.py", *LOSSES_BELOW}


# geometry lies below the solver, so that its one robust fit reweights by itself
LOSSES_BELOW = ("geometry/rays.py",)
