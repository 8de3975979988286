"""Laws of the house: floors, sizes, style, entry files, configurations, public names, the README."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import geo4d

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PACKAGE = sorted((ROOT / "geo4d").rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ENTRY_LINES = 500, 80, 20
MAX_TRACKED_BYTES, MAX_WEIGHT_BYTES = 45 << 20, 36 << 20


def run_tool(name, *words):
    tool = shutil.which(name, path=str(BIN))
    if tool is None:
        pytest.skip(f"{name} is not installed")
    result = subprocess.run([tool, *words], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]


def relative(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize(
    "words", [("lint-imports",), ("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy", "geo4d")], ids=" ".join
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
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES:
                found.append(f"{file}:{node.lineno} {node.name}")
    assert not found


@pytest.mark.parametrize("file", ["train/train.py", "infer/infer.py"])
def test_entry_files_are_thin_and_run(file):
    assert len((ROOT / file).read_text().splitlines()) < MAX_ENTRY_LINES
    result = subprocess.run([sys.executable, ROOT / file, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
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
    from geo4d.io.windows import save_windows
    from geo4d.pipeline import Geo4D

    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_video(), "video.mp4")
    save_windows("windows.npz", Geo4D.from_pretrained("small").predict("video.mp4"))
    for block in readme_blocks():
        exec(compile(block, "README.md", "exec"), {})  # our own text
    assert (tmp_path / "out" / "reconstruction.json").is_file()


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
    bad = re.compile("|".join(["/" + top + "/" for top in ("home", "Users", "work", "root")]) + r"|index-url|find-links|breakpoint\(\)")
    text_files = [path for path in tracked_files() if path.suffix in {".py", ".md", ".toml", ".yaml", ".txt"} or path.name == "Makefile"]
    found = []
    for path in text_files:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if bad.search(line) and path != Path(__file__).resolve():
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found
