"""The command line `dabdetr VERB`: one function per verb, with heavy imports inside."""

from dabdetr.cli import (
    audit,
    bench,
    compare,
    data,
    demo,
    doctor,
    explain,
    export,
    models,
    predict,
    prune,
    serve,
    snap,
    train,
    val,
)
from dabdetr.cli.app import add_verb, app

VERBS = {
    "Start": (demo.demo, models.models),
    "Train and evaluate": (train.train, val.val, compare.compare, prune.prune),
    "Detect": (predict.predict, explain.explain, serve.serve),
    "Weights and files": (export.export, bench.bench, models.convert),
    "Data": (doctor.doctor, audit.audit, snap.snap),
}
"""Heading in the help → its verbs."""

for _heading, _verbs in VERBS.items():
    for _verb in _verbs:
        add_verb(app, _verb, _heading)
app.add_typer(data.data, name="data", rich_help_panel="Data")
_PASS_ALL_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command(hidden=True, context_settings=_PASS_ALL_ON)(compare.ladder)

main = app
