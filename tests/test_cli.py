"""The command line: quick to start, one sentence for a user's mistake, an exit code for the shell."""

import subprocess
import sys
import time

import pytest

from geo4d.cli import VERBS, main

QUICK = 3.0  # seconds; a few tenths on a quiet machine, more where many tests run at once


def run_python(code):
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout, time.perf_counter() - started


@pytest.mark.parametrize("code", ["import geo4d", "import geo4d.cli; geo4d.cli.main(['--help'])"])
def test_start_is_quick_and_without_torch(code):
    heavy = "torch numpy scipy omegaconf diffusers kornia av"
    output, _ = run_python(f"{code}\nimport sys; print('loaded', [m for m in {heavy.split()} if m in sys.modules])")
    assert output.strip().endswith("loaded []")
    assert min(run_python(code)[1] for _ in range(2)) < QUICK


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"geo4d {verb}" in capsys.readouterr().out


def test_version(capsys):
    import geo4d

    assert main(["--version"]) == 0
    assert geo4d.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["infer"], ["demo", "--no-such-option"], ["train", "file.yaml", "--odd=1"]]
)
def test_wrong_usage_is_exit_code_2(words, capsys):
    assert main(words) == 2
    assert "usage" in capsys.readouterr().err


def test_a_users_mistake_is_one_sentence(tmp_path, capsys):
    assert main(["train", f"out={tmp_path / 'run'}", "presett=small"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("geo4d: error: ")
    assert "did you mean 'preset'" in error
    assert "\n" not in error
    assert not (tmp_path / "run").exists()


def test_interrupt_is_exit_code_130(monkeypatch, tmp_path, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("geo4d.commands.synth.run", interrupted)
    assert main(["synth", "--out", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err
