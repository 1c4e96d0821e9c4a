"""The command itself: help, speed, errors as sentences, run folders, file names."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import dabdetr
from dabdetr.cli import app, output
from dabdetr.cli.app import ANSWERS, ELSEWHERE, RETIRED, _explain, respelled
from dabdetr.cli.app import VERBS as OTHER_VERBS
from dabdetr.cli.options import class_names
from dabdetr.text import wrapped

VERBS = ("train", "val", "predict", "explain", "convert", "models", "compare", "demo")
COMMAND = [sys.executable, "-c", "from dabdetr.cli import main; main()"]
runner = CliRunner()


def test_help_names_every_verb() -> None:
    done = runner.invoke(app, ["--help"])
    assert done.exit_code == 0
    for verb in VERBS:
        assert verb in done.stdout


def test_each_verb_has_one_line_below_a_heading() -> None:
    said = runner.invoke(app, ["--help"], env={"COLUMNS": "80"}).stdout
    start, train, predict, data = (
        said.index(f"│ {verb} ") for verb in ("demo", "train", "predict", "data")
    )
    assert start < train < predict < data
    rows = [line for line in said.splitlines() if line.startswith("│ ") and "--" not in line]
    assert all(line.endswith(". │") or ".  " in line for line in rows), rows


@pytest.mark.parametrize("verb", [*VERBS, "data stats"])
def test_every_verb_explains_itself(verb: str) -> None:
    done = runner.invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert verb in done.stdout
    assert "<bool>" not in done.stdout
    assert "x>=1" not in done.stdout


def test_the_help_leaves_room_for_its_sentences() -> None:
    said = runner.invoke(app, ["predict", "--help"], env={"COLUMNS": "80"}).stdout
    assert "stamps; damaged frames are skipped" in " ".join(said.split())
    assert "Report every class of a query" in said  # in one line of its column
    assert runner.invoke(app, ["predict", "--batch", "0", "no.png"]).exit_code == 2


def test_long_messages_are_broken_between_words_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    path = "/a/folder/" * 6
    text = f"error: there is no folder {path}; check the path and type the name again\nnext"
    lines = wrapped(text, Terminal()).split("\n")
    assert lines[0] == "error: there is no folder"
    assert lines[1] == f"  {path};"
    assert lines[-2:] == ["  check the path and type the name again", "next"]
    assert wrapped(text, io.StringIO()) == text


def test_retired_options_are_accepted_with_a_note() -> None:
    line = ["demo", "--count", "0", "--pictures=3", "--", "--pictures"]
    assert respelled(line) == ["demo", "--count", "0", "--images=3", "--", "--pictures"]
    assert respelled(["predict", "--pictures", "3"]) == ["predict", "--pictures", "3"]
    done = runner.invoke(app, ["demo", "--pictures", "0"])
    assert done.exit_code == 2
    assert "note: --pictures is called --images now" in done.stderr
    assert "--images" in done.stderr.partition("now")[2]  # of the usage error


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict --threshold 0.3 --model scenes no.png", "note: --threshold is --conf here"),
        ("predict --model scenes --MAX_DET 3 no.png", "no file or folder no.png"),
        ("Train --Batch_Size 2 nodata", "note: --Batch_Size is --batch here"),
        ("DATA Stats nodata", "no data folder nodata"),
        ("train nodata --freeze 10", "--freeze in train: say what is trained instead: --only"),
        ("train nodata --amp", "training.precision"),
        ("train nodata --patience 3", "no data folder nodata"),
        ("trian nodata", "Did you mean 'train'?"),
        ("trian nodata --epochs 3", "Did you mean 'train'?"),
        ("report --against nothing scenes nodata", "note: report is val here"),
        ("export --model Scenes --format ONXX", "did you mean onnx?"),
        ("data convert scenes:count=1 -o new --to yollo", "did you mean yolo?"),
        ("val Scnes scenes", "did you mean scenes?"),
        ("detect --model scenes no.png", "note: detect is predict here"),
        ("train --half nodata", "training.precision"),
        ("predict --half --model scenes no.png", "note: --half is --precision=fp16 here"),
        ("val --threshold 0.5 scenes nodata", "--calibrate FILE"),
        ("explain --source no.png", "no file or folder no.png"),
        ("doctor --data nodata", "no data folder nodata"),
        ("DATA Stats --json --DATA=nodata", "no data folder nodata"),
        ("data convert -o new --dataset nodata", "no data folder nodata"),
        ("doctor --data", "no option --data in doctor: type dabdetr doctor"),
        ("audit --img 320 nodata", "no option --img in audit, but in compare, doctor, explain"),
        ("data stats --epochs 3 nodata", "in data stats, but in"),
        ("predict model=scenes source=no.png", "model=scenes is --model scenes here"),
        ("train data=nodata", "data=nodata is --data nodata here"),
        ("train --data nodata --set loss=3", "no data folder nodata"),
        ("train nodata --frobnicate", "No such option"),
        ("doctor nodata -o new", "no option -o in doctor: --fix FOLDER"),
        ("data stats nodata --out new", "--plot FILE"),
    ],
)
def test_other_tools_words_and_any_case_are_understood_or_answered(line: str, said: str) -> None:
    done = runner.invoke(app, line.split())
    assert done.exit_code == 2
    assert said in done.stderr, done.stderr


@pytest.mark.parametrize("verb", RETIRED)
def test_retired_options_stand_for_options_that_there_are(verb: str) -> None:
    options = runner.invoke(app, [verb, "--help"]).stdout
    for old, current in RETIRED[verb].items():
        assert current in options
        assert old not in options


def test_words_of_other_tools_stand_for_options_that_there_are() -> None:
    verbs = typer.main.get_command(app).commands.values()
    ours = {each for verb in verbs for parameter in verb.params for each in parameter.opts}
    meant = {each.partition("=")[0] for value in ELSEWHERE.values() for each in value.split()}
    assert meant <= ours
    for answer in ANSWERS.values():
        answer = answer.replace("--nproc-per-node", "")  # torchrun's
        assert set(re.findall(r"--[a-z-]+", answer)) <= ours, answer
    assert set(OTHER_VERBS.values()) <= set(typer.main.get_command(app).commands)


def test_models_recommends_a_few_of_those_there_are() -> None:
    from dabdetr.checkpoints.locate import PUBLISHED, shipped
    from dabdetr.checkpoints.reading import read
    from dabdetr.cli.models import DETECT, RECOMMENDED
    from dabdetr.presets import PRESETS

    rows = [row for each in RECOMMENDED.values() for row in each]
    assert len(rows) <= 12
    ours = {"blood-cells": "bccd", "tools": "foda"}
    for name, data in ours.items():
        measured = float(read(name).metadata["measured"].split()[1].rstrip(","))
        ours[name] = f"{100 * measured:.1f} {data}"
    for row in rows:
        trained = row in RECOMMENDED[DETECT]
        assert row.name in ({*shipped(), *PUBLISHED} if trained else PRESETS), row
        ap = PUBLISHED[row.name].ap if row.name in PUBLISHED else None
        ap = PRESETS[row.name].published_ap if row.name in PRESETS else ap
        assert row.ap == (f"{ap:.1f} COCO" if ap else ours.get(row.name, ""))
    said = runner.invoke(app, ["models"], env={"COLUMNS": "80"}).stdout
    assert all(f" {row.name} " in said for row in rows)  # in full
    assert all(f" {row.millions} │" in said for row in rows)
    assert max(map(len, said.splitlines())) <= 80
    assert "dino-swin-l-5scale" not in said


def test_no_verb_gives_help_and_a_usage_error() -> None:
    done = runner.invoke(app, [])
    assert done.exit_code == 2
    assert "predict" in done.output


def test_version() -> None:
    done = runner.invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"dabdetr {dabdetr.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [["find"], ["--verbose"], ["predict", "--threshold", "1"], ["val"], ["val", "--batch", "x"]],
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(("train", option, "0") for option in ("--epochs", "--batch", "--imgsz")),
        *(("val", option, "0") for option in ("--batch", "--imgsz", "--max-det")),
        *(("predict", option, "0") for option in ("--batch", "--imgsz", "--max-det")),
        ("train", "--workers", "-1"),
    ],
)
def test_numbers_out_of_range_name_the_option(arguments: tuple[str, ...]) -> None:
    done = runner.invoke(app, [*arguments, "--model", "scenes"])
    assert done.exit_code == 2
    assert f"Invalid value for '{arguments[1]}'" in done.stderr


@pytest.mark.parametrize("verb", [[], ["train"]])
def test_usage_errors_stay_short(verb: list[str]) -> None:
    done = runner.invoke(app, [*verb, "--no\x1b[2J" + "x" * 3000])
    assert done.exit_code == 2
    assert len(done.stderr) < 1000
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ValueError("a, b\nc\x1b[2J\u202e"), 2, r"a, b\x0ac\x1b[2J\u202e"),
        (ValueError("x" * 9000 + "!"), 2, "x" * 319 + "…" + "x" * 159 + "!"),
        (FileNotFoundError("there is no x"), 2, "there is no x"),
        (FileNotFoundError("there is no out of memory.jpg"), 2, "there is no out of memory.jpg"),
        (ValueError("no class 'cannot allocate'"), 2, "no class 'cannot allocate'"),
        (
            OSError(errno.ENOMEM, "Cannot allocate memory", "x"),
            3,
            "out of memory (cannot allocate memory); lower --batch, --imgsz or --queries",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "x: permission denied"),
        (ImportError("type: pip install y"), 3, "type: pip install y"),
        (MemoryError("5 GB"), 3, "out of memory (5 GB); lower --batch, --imgsz or --queries"),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                "1073741824 bytes."
            ),
            3,
            "out of memory (1.0 GiB); lower --batch, --imgsz or --queries",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("k"), 70, "KeyError: 'k' (a fault of dabdetr; DABDETR_DEBUG=1 shows where)"),
    ],
)
def test_errors_become_sentences(error: BaseException, code: int, sentence: str) -> None:
    assert _explain(error) == (code, sentence)


def test_a_traceback_only_when_asked_for(tmp_path: Path) -> None:
    arguments = [*COMMAND, "convert", "scenes", str(tmp_path / "file.bin")]
    plain = subprocess.run(arguments, capture_output=True, text=True)
    assert plain.returncode == 2
    assert plain.stderr.startswith("error: the target should end in .safetensors")
    assert plain.stderr.count("\n") == 1
    debug = os.environ | {"DABDETR_DEBUG": "1"}
    traced = subprocess.run(arguments, capture_output=True, text=True, env=debug)
    assert traced.returncode != 0
    assert "Traceback" in traced.stderr


@pytest.mark.parametrize("arguments", [["models"], ["models", "--json"], ["--help"]])
def test_a_reader_that_stops_reading_is_no_error(arguments: list[str]) -> None:
    piped = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert piped.stdout is not None
    piped.stdout.close()
    _, stderr = piped.communicate()
    assert stderr == ""
    assert piped.returncode == 1


def test_models_lists_presets_and_weights() -> None:
    table = runner.invoke(app, ["models", "--all"])
    assert table.exit_code == 0
    document = json.loads(runner.invoke(app, ["models", "--json"]).stdout)
    names = [row["name"] for row in document["presets"]]
    assert names[0] == "dab-lite"
    assert sorted(names) == sorted(dabdetr.PRESETS)
    assert table.stdout.index("trained model") < table.stdout.index("preset ")
    assert "Presets have no weights of their own" in table.stdout
    for row in document["presets"]:
        assert row["name"] in table.stdout
        assert row["source"]
    assert {"name": "dab-detr-r50", "backbone": "resnet50", "published_ap": 42.2}.items() <= (
        document["presets"][1].items()
    )
    for row in document["weights"]:
        assert row["name"] in table.stdout


def test_names_keep_their_ending_and_never_collide() -> None:
    taken: set[str] = set()
    sources = [
        "a/x.jpg",
        "b/x.jpg",
        "c/X.JPG",
        "x.png",
        "film.gif",
        "http://h/p/y%20z.webp?q=1",
        "",
    ]
    names = [output.file_name(source, taken) for source in sources]
    assert names == [
        "x.jpg",
        "x-2.jpg",
        "X-3.JPG",
        "x.png",
        "film.png",
        "y z.webp",
        "image.png",
    ]


def test_names_of_hostile_sources_are_plain() -> None:
    sources = ("http://h/a%00%1b[2J.png", "http://h/..%2f..%2fx.png", "b\u202e.jpg", "é" * 127)
    names = [output.file_name(source, set()) for source in sources]
    assert names == ["a__[2J.png", "x.png", "b_.jpg", "é" * 100 + ".png"]


def test_class_names_are_parted_at_commas_unless_a_name_has_one() -> None:
    known = ["cat", "dog", "bow, arrow"]
    assert class_names(["cat,dog"], known) == ["cat", "dog"]
    assert class_names(["bow, arrow", "cat"], known) == ["bow, arrow", "cat"]
    assert class_names([], known) is None


@pytest.mark.parametrize(
    "assignment",
    [
        f"model.width={2**61}",
        f"model.queries.count={2**61}",
        f"model.encoder={{kind: deformable, points: {2**61}}}",
    ],
)
def test_sizes_that_no_memory_holds_are_out_of_memory(assignment: str) -> None:
    from dabdetr.cli.app import _explain
    from dabdetr.model.detector import build
    from dabdetr.presets import preset

    with pytest.raises(Exception) as caught:  # noqa: PT011 - of torch, of several kinds
        build(preset("dino-nano").override([assignment]), ("a", "b"))
    code, message = _explain(caught.value)
    assert code == 3
    assert message.startswith("out of memory")


def test_a_fault_of_the_input_that_quotes_an_overflow_is_no_lack_of_memory() -> None:
    from dabdetr.cli.app import _explain

    quoted = "timm cannot build it: argument 'size' failed with \"Overflow when unpacking long\""
    assert _explain(ValueError(quoted)) == (2, quoted)
    assert _explain(RuntimeError("Overflow when unpacking long"))[0] == 3
    with pytest.raises(OverflowError) as caught:
        len(range(10**30))
    assert _explain(caught.value)[0] == 3
