"""The folder of a run under several processes at once, and files that are whole or not there."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from matplotlib.figure import Figure
from test_runner import rooms

from geo4d.errors import InputError
from geo4d.evaluation.methods import Guess
from geo4d.evaluation.plots import write_plots
from geo4d.evaluation.protocols import PROTOCOLS
from geo4d.evaluation.results import Results
from geo4d.evaluation.runner import Run
from geo4d.evaluation.sets import open_set
from geo4d.evaluation.store import LOOKS, PAUSE_S, SETTINGS, Store, write_text
from geo4d.io.output import is_list
from geo4d.scene.atomic import whole_file

METHODS = [("m", {"kind": "baseline"})]


def together(count, work):
    """Runs `work` in so many threads, which wait for one another where it calls what it is given.

    Raises what one of them raises.
    """
    start = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        return [task.result() for task in [pool.submit(work, lambda: start.wait(60)) for _ in range(count)]]


def test_shards_that_start_together_all_get_the_folder(tmp_path):
    def claim_all(wait):
        failed = []
        for number in range(60):
            wait()
            try:
                Store(tmp_path / str(number)).claim({"a": 1}, METHODS)
            except (InputError, OSError) as error:
                failed.append(str(error))
        return failed

    assert together(4, claim_all) == [[]] * 4
    assert not list(tmp_path.rglob("*.tmp")) and Store(tmp_path / "59").methods() == dict(METHODS)


def test_the_start_of_another_shard_is_no_foreign_folder(tmp_path):
    (tmp_path / "starting").mkdir()
    (tmp_path / "starting" / f".{SETTINGS}.node7-12-0a1b2c3d.tmp").write_text("{")
    Store(tmp_path / "starting").claim({"a": 1}, METHODS)
    assert Store(tmp_path / "starting").settings()["a"] == 1
    # a shared folder that shows what another machine has written below it before it shows the list of files
    late = tmp_path / "late"
    Store(tmp_path / "other").claim({"a": 1}, METHODS)
    (late / "sequences").mkdir(parents=True)
    (name,) = (path.name for path in (tmp_path / "other").iterdir() if is_list(path.name))
    shows = threading.Timer(PAUSE_S, lambda: (tmp_path / "other" / name).rename(late / name))
    shows.start()
    Store(late).claim({"a": 1}, METHODS)
    shows.join()
    assert LOOKS * PAUSE_S <= 2
    (late / name).unlink()
    with pytest.raises(InputError, match="holds something that is no run"):
        Store(late).claim({"a": 1}, METHODS)


def test_two_writers_have_two_names(tmp_path):
    path = tmp_path / "new" / "a.json"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second and first.parent == second.parent == path.parent
        first.write_text("first")
        second.write_text("second")
        assert not path.exists()
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]
    with pytest.raises(ZeroDivisionError), whole_file(path) as third:
        third.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]
    with pytest.raises(InputError, match=r"a\.json/b cannot be written"):
        write_text(path / "b", "")


def test_shards_that_finish_together_draw_the_same_plots(tmp_path, monkeypatch):
    rooms(tmp_path / "data", 1)
    opened = open_set("rgbd", tmp_path / "data")
    run = Run(opened, [Guess("constant")], "geo4d", PROTOCOLS["geo4d"], Store(tmp_path / "out"))
    run.evaluate()
    results, folder = Results.load(run.store), tmp_path / "out" / "plots"

    drawn, save = threading.Barrier(2), Figure.savefig

    def save_together(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        drawn.wait(60)  # both are written before either is moved

    monkeypatch.setattr(Figure, "savefig", save_together)

    def draw(wait):
        wait()
        return [path.name for path in write_plots(results, folder)]

    names = ["frames_abs_rel.png", "frames_position.png", "trajectories.png"]
    assert together(2, draw) == [names] * 2
    assert sorted(path.name for path in folder.iterdir()) == names
