"""`dabdetr predict` keeps what is done when it is stopped; `--continue` does the rest."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dabdetr.cli import app
from dabdetr.data.scenes import Scenes
from dabdetr.inference.video import VideoWriter

if sys.platform == "win32":
    pytest.skip("signals of POSIX", allow_module_level=True)
COUNT = 10
OUTPUTS = ("--save-crops", "--save-txt", "--csv", "--fiftyone")
RUNS = Path("runs/predict")


@pytest.fixture(autouse=True)
def _images(_own_folder: None) -> None:
    Path("images").mkdir()
    data = Scenes("val")
    for number in range(COUNT):
        Image.fromarray(data.image(number)).save(f"images/{number:02d}.png")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def begin(*arguments: object) -> Result:
    return invoke("--model", "scenes", "--device", "cpu", "--conf", 0.3, *arguments)


def go_on(*arguments: object) -> Result:
    done = invoke("--continue", *arguments)
    assert done.exit_code == 0, done.output
    return done


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def journal() -> Path | None:
    return next(RUNS.glob("*/unfinished.jsonl"), None)


def when_done(images: int, act: Callable[[], object]) -> threading.Thread:
    """Does ``act`` once, when so many images are noted as done."""

    def watch() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            file = journal()
            if file is not None and file.read_bytes().count(b"\n") > images:
                act()
                return
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_is_done(number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as under nohup, and stays so")
    whole = begin("images", *OUTPUTS, "--json", "--coco", "whole.json", "--name", "whole")
    assert whole.exit_code == 0
    before = signal.getsignal(number)
    watching = when_done(3, lambda: os.kill(os.getpid(), number))
    stopped = begin("images", *OUTPUTS, "--json", "--coco", "found.json", "--name", "a")
    watching.join()
    assert signal.getsignal(number) == before
    assert stopped.exit_code == 130
    assert stopped.stdout == ""
    assert "interrupted" in stopped.stderr
    done = len([name for name in files(RUNS / "a") if name.endswith(".png") and "/" not in name])
    assert 3 <= done < COUNT
    assert f" of {COUNT} images done and kept in runs/predict/a; not done: " in stopped.stderr
    assert "dabdetr predict --continue --name a" in stopped.stderr
    assert not Path("found.json").exists()
    ended = go_on("--json", "--name", "a")
    expected = json.loads(whole.stdout) | {"folder": "runs/predict/a"}
    assert json.loads(ended.stdout) == expected
    assert files(RUNS / "a") == files(RUNS / "whole")
    assert Path("found.json").read_bytes() == Path("whole.json").read_bytes()


def copy_at_work() -> None:
    """Copy a run's folder as a kill would leave it: the journal first, as the run goes on."""
    journal = (RUNS / "a" / "unfinished.jsonl").read_bytes()
    shutil.copytree(RUNS / "a", "copy")
    Path("copy/unfinished.jsonl").write_bytes(journal)


def test_a_folder_that_is_removed_at_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    save = Image.Image.save

    def remove_and_save(image: Image.Image, path: Path, **options: object) -> None:
        if Path(path).name == "03.png":
            shutil.rmtree(RUNS / "a")
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", remove_and_save)
    done = begin("images", "--name", "a", "--quiet")
    assert done.exit_code == 1
    assert "the run folder runs/predict/a was removed; nothing of this run is kept" in done.stderr
    assert "go on with" not in done.stderr


def test_a_killed_run_goes_on_three_times() -> None:
    """The folder as a kill leaves it: copied at work, with half a line and half an image."""
    begin("images", *OUTPUTS, "--name", "whole", "--quiet")
    for last in (2, 5, 8):
        watching = when_done(last, copy_at_work)
        if last == 2:
            begin("images", *OUTPUTS, "--name", "a", "--quiet")
        else:
            go_on("--name", "a", "--quiet")
        watching.join()
        shutil.rmtree(RUNS / "a")
        shutil.move("copy", RUNS / "a")
        with (RUNS / "a" / "unfinished.jsonl").open("ab") as file:
            file.write(b'{"image": 7, "ongo')
        (RUNS / "a" / "09.png").write_bytes(b"\x89PNG")
    rows = go_on("--name", "a", "--jsonl").stdout.splitlines()
    assert [Path(json.loads(row)["source"]).stem for row in rows] == [
        f"{number:02d}" for number in range(COUNT)
    ]
    assert files(RUNS / "a") == files(RUNS / "whole")


def test_a_bad_image_keeps_those_before_it() -> None:
    Path("images/04.png").write_bytes(b"broken")
    stopped = begin("images", "--json", "--batch", 3)
    assert stopped.exit_code == 1
    assert "error: images/04.png" in stopped.stderr
    assert "--skip-unreadable" in stopped.stderr
    assert f"4 of {COUNT} images done and kept in runs/predict/predict-1" in stopped.stderr
    assert "not done: images/04.png, images/05.png, images/06.png and 3 more" in stopped.stderr
    assert {path.stem for path in (RUNS / "predict-1").glob("*.png")} == {"00", "01", "02", "03"}
    again = invoke("--continue")
    assert again.exit_code == 1
    assert f"4 of {COUNT} images done" in again.stderr
    last = invoke("--continue", "--skip-unreadable", "--json")
    assert last.exit_code == 1
    document = json.loads(last.stdout)
    assert len(document["images"]) == COUNT - 1
    assert len(document["skipped"]) == 1
    assert journal() is None


def test_skipped_images_are_listed_after_a_stop() -> None:
    for number in (1, 5):
        Path(f"images/{number:02d}.png").write_bytes(b"broken")
    watching = when_done(6, lambda: os.kill(os.getpid(), signal.SIGINT))
    stopped = begin("images", "--skip-unreadable", "--json")
    watching.join()
    assert stopped.exit_code == 130
    ended = invoke("--continue")
    assert ended.exit_code == 1
    document = json.loads(ended.stdout)
    assert [reason.split(":")[0].split()[0] for reason in document["skipped"]] == [
        "images/01.png",
        "images/05.png",
    ]
    assert len(document["images"]) == COUNT - 2


def test_a_full_disk_keeps_those_before_it() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    Image.fromarray(noise).save("images/06.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        stopped = begin("images", "--name", "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stopped.exit_code == 1
    assert "runs/predict/a/06.png cannot be written" in stopped.stderr
    assert f"6 of {COUNT} images done" in stopped.stderr
    assert not (RUNS / "a" / "06.png").exists()
    go_on()
    assert len(list((RUNS / "a").iterdir())) == COUNT


def test_without_drawings_too() -> None:
    options = ("images", "--no-save", "--json")
    whole = begin(*options)
    assert not Path("runs").exists()
    watching = when_done(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = begin(*options)
    watching.join()
    assert stopped.exit_code == 130
    assert go_on().stdout == whole.stdout
    assert list(RUNS.iterdir()) == []


@pytest.fixture
def clips() -> None:
    pytest.importorskip("av")
    data = Scenes("val")
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(Path(name), "") as writer:
            for index in range(5):
                writer.add(data.image(index), index / 10)


@pytest.mark.usefixtures("clips")
def test_a_video_that_was_begun_begins_again() -> None:
    order = ("a.mp4", "images/00.png", "b.mp4", "b.mp4", "images/01.png")
    whole = json.loads(begin(*order, "--json", "--name", "whole").stdout)["images"]
    for last in (3, 8, 13):  # rows: 5 frames, an image, 5 frames, 5 frames, an image
        watching = when_done(last, lambda: os.kill(os.getpid(), signal.SIGINT))
        stopped = begin(*order, "--json", "--name", f"a{last}")
        watching.join()
        assert stopped.exit_code == 130
        found = json.loads(go_on("--name", f"a{last}").stdout)["images"]
        assert found == whole
        assert files(RUNS / f"a{last}").keys() == files(RUNS / "whole").keys()


def stop(*arguments: object) -> None:
    """A run ``a`` that was stopped at its third image."""
    content = Path("images/02.png").read_bytes()
    Path("images/02.png").write_bytes(b"broken")
    assert begin("images", "--name", "a", *arguments).exit_code == 1
    Path("images/02.png").write_bytes(content)


def test_a_run_in_a_folder_of_ones_own_goes_on() -> None:
    content = Path("images/02.png").read_bytes()
    Path("images/02.png").write_bytes(b"broken")
    Path("mine").mkdir()  # an empty folder is as good as none
    assert begin("images", "-o", "mine").exit_code == 1
    Path("images/02.png").write_bytes(content)
    done = invoke("--continue", "-o", "mine", "--quiet")
    assert done.exit_code == 0, done.output
    assert len(list(Path("mine").glob("*.png"))) == COUNT
    assert not Path("runs").exists()
    for wrong, words in (
        (["-o", "mine"], "mine exists and is not overwritten"),
        (["-o", "a", "--name", "b"], "-o a and --name b were given"),
        (["-o", "."], "-o should be a new folder"),
    ):
        again = begin("images/00.png", *wrong)
        assert again.exit_code == 2
        assert words in again.stderr


def test_what_cannot_go_on_is_refused(tmp_path: Path) -> None:
    def refused(*arguments: object, words: str) -> None:
        done = invoke("--continue", *arguments)
        assert done.exit_code == 2, done.output
        assert words in done.stderr

    refused(words="there is no unfinished run in runs/predict")
    refused("--name", "b", words="there is no run runs/predict/b")
    shutil.copy(Path(str(shipped())), "own.safetensors")
    stop("--model", "own.safetensors")
    refused("--conf", "0.5", words="was begun with conf 0.3, not 0.5")
    refused("images/00.png", words="was begun with images")
    os.utime("own.safetensors", ns=(1, 1))
    refused(words="own.safetensors' has changed since")
    file = RUNS / "a" / "unfinished.jsonl"
    rows = file.read_bytes()
    for damaged in (
        b"",
        b"[]\n",
        b"{}\n",
        rows.replace(b'"image": 1', b'"image": "x"'),
        rows.replace(b'"conf"', b'"c"'),
    ):
        file.write_bytes(damaged)
        refused(words="another version" if b'"c"' in damaged else "unfinished.jsonl is damaged")
    assert begin("images/00.png", "--name", "b").exit_code == 0
    refused("--name", "b", words="the run runs/predict/b is finished")


def shipped() -> Path:
    from dabdetr.checkpoints.locate import shipped

    return shipped()["scenes"]


def test_the_same_command_goes_on_and_other_files_do_not_come_in() -> None:
    stop()
    Image.new("RGB", (64, 64)).save("images/00a.png")
    os.remove("images/09.png")
    done = begin("images", "--name", "a", "--continue", "--json", "--skip-unreadable")
    assert done.exit_code == 1
    document: dict[str, Any] = json.loads(done.stdout)
    stems = [Path(each["source"]).stem for each in document["images"]]
    assert stems == [f"{number:02d}" for number in range(COUNT - 1)]
    assert "there is no image images/09.png" in document["skipped"][0]


def test_two_processes_do_not_go_on_with_one_run() -> None:
    from dabdetr.runs import locked

    stop()
    with locked(RUNS / "a"):
        done = invoke("--continue")
    assert done.exit_code == 2
    assert "another process is at work" in done.stderr


def test_a_folder_that_cannot_be_written_stops_only_what_needs_it() -> None:
    Path("runs").write_bytes(b"")
    assert begin("images/00.png", "--no-save").exit_code == 0
    assert begin("images/00.png").exit_code == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_images_some_damaged_three_interruptions(tmp_path: Path) -> None:
    """Nothing is lost, all is listed, and the memory does not grow.

    ``DABDETR_MANY`` sets the number of images.
    """
    count = int(os.environ.get("DABDETR_MANY", "1500"))
    rng = np.random.default_rng(0)
    good = [Path(f"images/{number:02d}.png").read_bytes() for number in range(COUNT)]
    Path("many").mkdir()
    damaged = set(rng.choice(count, count // 100, replace=False).tolist())
    for number in range(count):
        content = good[number % COUNT]
        if number in damaged:
            content = [content[:200], b"", b"%!PS", content[:40] + bytes(900)][number % 4]
        Path(f"many/{number:05d}.png").write_bytes(content)
    command = [
        sys.executable,
        "-m",
        "dabdetr",
        "predict",
        "--skip-unreadable",
        "--quiet",
        "--name",
        "a",
    ]
    first = ["--model", "scenes", "--device", "cpu", "--batch", "4", "--csv", "many"]
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    stops = {count // 5: signal.SIGINT, count // 2: signal.SIGTERM, count * 4 // 5: signal.SIGKILL}
    memory: list[list[int]] = []
    for last, number in [*stops.items(), (count + 1, None)]:
        process = subprocess.Popen(
            [*command, *(first if not memory else ["--continue"])],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        memory.append([])
        begun: int | None = None
        while process.poll() is None:
            time.sleep(0.2)
            file = journal()
            done = 0 if file is None else int(tail(file).get("image", 0))
            begun = done if begun is None else begun
            if done > begun + 60:  # all that is loaded is there
                memory[-1].append(resident(process.pid))
            if number is not None and done >= last:
                process.send_signal(number)
                process.wait()
        assert process.returncode in (1, 130, -signal.SIGKILL)
    assert process.returncode == 1
    drawn = {int(path.stem) for path in (RUNS / "a").glob("*.png")}
    assert drawn == set(range(count)) - damaged
    rows = (RUNS / "a" / "predictions.csv").read_text().splitlines()[1:]
    named = {int(Path(row.split(",")[0]).stem) for row in rows}
    assert named <= drawn
    assert len(named) > 0.9 * len(drawn)
    assert journal() is None
    measured = [each[:-1] for each in memory if len(each) > 20]  # the last one may be of its end
    assert measured
    for each in measured:
        half = len(each) // 2
        assert np.mean(each[half:]) < 1.02 * np.mean(each[:half])


def resident(process: int) -> int:
    """Memory of a process in bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


def tail(file: Path) -> dict[str, Any]:
    """The last whole line of a journal."""
    with suppress(OSError):
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 20_000))
            lines = stream.read().split(b"\n")
        return json.loads(lines[-2]) if len(lines) > 2 else {}
    return {}
