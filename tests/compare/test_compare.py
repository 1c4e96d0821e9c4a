"""`dabdetr compare`: from names of models to one table, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tests.compare.conftest import Fabricate
from typer.testing import CliRunner

from dabdetr.cli import app
from dabdetr.compare.plan import RUNS, Settings, plan
from dabdetr.compare.report import write_report
from dabdetr.compare.run import begin, extend, finished
from dabdetr.config import Config, load
from dabdetr.runs import locked


def run(*arguments: object, code: int = 0) -> Any:
    """The verb in this process; the trainings are processes of their own."""
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert done.exit_code == code, (done.stderr, done.exception)
    return done


def test_the_table_is_of_means_and_of_gains_at_the_same_seed(fabricate: Fabricate) -> None:
    for seed, (ours, other) in enumerate([(0.2, 0.3), (0.4, 0.6)]):
        fabricate("ours", [0.1, ours], seed)
        folder = fabricate("other", [None, other], seed)
    fabricate("other", [0.5], 2, epochs=2)  # not finished
    document = write_report(folder)
    ours, other = csv.DictReader((folder / "table.csv").read_text().splitlines())
    assert (ours["model"], ours["seeds"], ours["epochs"], ours["gain"]) == ("ours", "2", "2", "–")
    assert ours["AP"] == "0.300 ± 0.141"
    assert (other["AP50"], other["AP small"]) == ("0.900 ± 0.424", "0.225 ± 0.106")
    # gains of 0.1 and 0.2: half of the interval is 12.7 standard errors of 0.05
    assert other["gain"] == "+0.150 ± 0.635"
    assert (other["minutes"], other["memory MiB"]) == ("2.00 ± 0.00", "500")
    assert document["unfinished"] == ["other-2"]
    assert document["members"][1]["gain"] == pytest.approx(0.15)
    page = (folder / "report.md").read_text()
    assert "| ours | 2 | 2 | 0.300 ± 0.141 |" in page
    assert "left out: other-2" in page
    assert (folder / "curves.png").stat().st_size > 1000


def test_members_get_the_same_changes_and_names_of_their_own(
    tiny_config: Config, tmp_path: Path
) -> None:
    tiny_config.save(tmp_path / "mine.yaml")
    settings = Settings(data="scenes", epochs=3, imgsz=96, overrides=("training.lr=3e-4",))
    settings = settings.model_copy(update={"precision": "bf16"})
    configs = settings.configs(["dab-detr-nano", "mine.yaml", "dab-detr-nano"])
    assert list(configs) == ["dab-detr-nano", "mine", "dab-detr-nano-2"]
    for name, config in configs.items():
        training = config.training
        assert (config.name, training.epochs, training.lr) == (name, 3, 3e-4)
        assert (config.image.size, training.precision) == (96, "bf16")
    settings = settings.extended(configs, seeds=2)
    folder = begin(tmp_path / "runs", None, settings, configs)
    assert folder == tmp_path / "runs" / "compare-1"
    tasks = plan(Settings.load(folder), folder)
    assert [task.name for task in tasks] == [
        *("dab-detr-nano-0", "mine-0", "dab-detr-nano-2-0"),
        *("dab-detr-nano-1", "mine-1", "dab-detr-nano-2-1"),
    ]
    assert [task.config.training.seed for task in tasks] == [0, 0, 0, 1, 1, 1]
    same = [task.config.model_copy(update={"name": ""}) for task in tasks]
    assert same[0] == same[2] != same[1] != same[3] == same[5]


TINY = ["--seeds", 1, "--epochs", 1, "--device", "cpu", "--jobs", 2, "--name", "mine"]


def test_models_are_trained_added_to_and_reported(tiny_config: Config, coco_folder: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        tiny_config.override([f"model.queries.count={10 + seed}"]).save(f"{name}.yaml")
    done = run("a.yaml", "b.yaml", "--data", coco_folder, *TINY, "--json")
    document = json.loads(done.stdout)
    folder = Path("runs/compare/mine")
    assert [row["model"] for row in document["table"]] == ["a", "b"]
    assert document["failed"] == document["unfinished"] == []
    for name in ("a", "b"):
        assert finished(folder / RUNS / f"{name}-0")
        assert load(folder / RUNS / f"{name}-0" / "config.yaml").name == name
    assert {"report.md", "table.csv", "curves.png", "compare.yaml"} <= {
        path.name for path in folder.iterdir()
    }
    before = (folder / RUNS / "a-0" / "results.csv").read_bytes()
    done = run("c.yaml", "--resume", folder, "--device", "cpu", "--json")
    assert "3 runs, 2 of them finished before" in done.stderr
    assert [row["model"] for row in json.loads(done.stdout)["table"]] == ["a", "b", "c"]
    assert (folder / RUNS / "a-0" / "results.csv").read_bytes() == before
    again = run("--report", folder)
    assert "report.md" in again.stderr
    assert "gain" in again.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dab-detr-nano", "--data", "scenes"], "two models or more"),
        (["dab-detr-nano", "detr-nano"], "and --data"),
        (["dab-detr-nano", "dab-detr-nan", "--data", "scenes"], "did you mean dab-detr-nano"),
        (["dab-detr-nano", "detr-nano", "--data", "nowhere"], "no data folder nowhere"),
        (["dab-detr-nano", "detr-nano", "--data", "scenes", "--set", "x=1"], "has no field 'x'"),
        (["dab-detr-nano", "detr-nano", "--data", "scenes", "--name", "a/b"], "one folder name"),
        (["--resume", "nowhere"], "there is no comparison in nowhere"),
        (["--report", "nowhere"], "there is no comparison in nowhere"),
        (["--resume", "nowhere", "--epochs", "3"], "keeps its epochs"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words: list[str], sentence: str) -> None:
    done = run(*words, code=2)
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path("runs").exists()


HEADER = b"epoch,seconds,AP,AP50,APS,cpu_seconds,memory_mib\n"


@pytest.mark.parametrize(
    "content",
    [
        HEADER + b"1,60,0.1,0.1,0.1,30,500,9\n",  # a value too many
        HEADER + b"1\n",
        HEADER + b"1,60,x,0.1,0.1,30,500\n",
        HEADER + b"1,inf,0.1,0.1,0.1,30,500\n",
        HEADER + b"1,60,nan,0.1,0.1,30,500\n",
        HEADER + b"1,60,1e300,0.1,0.1,30,500\n",
        HEADER + b'1,"60\n',
        HEADER + b"9" * 200_000,
        b"epoch,AP\n1,0.1\n",
        b"seconds,AP\n1,0.1\n",
        b"\xff\xfe\n\x00\n",
    ],
)
def test_a_damaged_record_is_named_and_kept(fabricate: Fabricate, content: bytes) -> None:
    fabricate("ours", [0.1, 0.2])
    folder = fabricate("other", [0.1, 0.2])
    for name in ("ours", "other"):
        (folder / "configs").mkdir(exist_ok=True)
        load(folder / RUNS / f"{name}-0" / "config.yaml").save(folder / "configs" / f"{name}.yaml")
    record = folder / RUNS / "ours-0" / "results.csv"
    record.write_bytes(content)
    for verb in ("--report", "--resume"):
        done = run(verb, folder, code=2)
        assert f"{record} is not a valid record of a training" in done.stderr
        assert "restore the file" in done.stderr
    assert record.read_bytes() == content


def test_a_run_that_cannot_go_on_is_kept(fabricate: Fabricate) -> None:
    folder = fabricate("ours", [0.1], epochs=2)
    kept = folder / RUNS / "ours-0" / "best.safetensors"
    kept.write_bytes(b"weights")  # and no checkpoint, which was moved away
    config = load(folder / RUNS / "ours-0" / "config.yaml")
    settings = Settings(data="scenes", members=("ours",), seeds=1)
    extend(folder, settings, {"ours": config})
    done = run("--resume", folder, "--device", "cpu", code=2)
    assert "ours-0 exists and is not overwritten" in done.stderr
    assert kept.read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ("members: [../../victim]", "a member's name should be one folder name"),
        ("members: [..]", "a member's name should be one folder name"),
        ('members: ["a\\e[2J"]', r"got 'a\x1b[2J'"),
        ("members: [a, a]", "members should differ"),
        ("seeds: 1000000000", "less than or equal to 1000"),
        ("members: []", "is of a member"),
    ],
)
def test_edited_settings_are_refused(fabricate: Fabricate, changes: str, sentence: str) -> None:
    folder = fabricate("ours", [0.1])
    (folder / "compare.yaml").write_text(f"data: scenes\n{changes}\n")
    for verb in ("--report", "--resume"):
        done = run(verb, folder, code=2)
        assert sentence in done.stderr
        assert "\x1b" not in done.stderr


def test_files_of_hostile_names_are_no_members(tiny_config: Config) -> None:
    tiny_config.save("good.yaml")
    for name in ("a\x1b[2J.yaml", "a\u202eb.yaml"):
        tiny_config.save(name)
        done = run("good.yaml", name, "--data", "scenes", code=2)
        assert "a member's name should be one folder name" in done.stderr
        assert not Path("runs").exists()


def test_names_are_text_in_every_report(fabricate: Fabricate) -> None:
    """Neither markup of the terminal, nor formulas of matplotlib, nor Markdown, nor HTML."""
    evil = r"[$\frac[bold]|<img src=x>"
    for member in ("ours", evil):
        folder = fabricate(member, [0.1, 0.2])
    Settings(data="<b>\x1b[2J", members=("ours", evil)).save(folder)
    done = run("--report", folder)
    assert "[bold]" in done.stdout
    page = (folder / "report.md").read_text()
    assert "<" not in page
    assert "\x1b" not in page
    assert r"\[$\\frac\[bold\]\|&lt;img src=x&gt;" in page


def test_a_comparison_that_runs_is_not_added_to(fabricate: Fabricate, tiny_config: Config) -> None:
    folder = fabricate("ours", [0.1])
    tiny_config.save("more.yaml")
    before = (folder / "compare.yaml").read_bytes()
    with locked(folder):
        done = run("more.yaml", "--resume", folder, code=2)
    assert "another process is at work" in done.stderr
    assert (folder / "compare.yaml").read_bytes() == before


def test_names_are_whole_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    from dabdetr.cli.compare import _print
    from dabdetr.compare.report import HEAD

    name = "dab-deformable-detr-r50-two-stage"
    row = dict.fromkeys(HEAD, "-0.001 ± 0.009") | {"model": name}
    _print({"table": [row], "report": "report.md"})
    assert f" {name} " in capsys.readouterr().out
