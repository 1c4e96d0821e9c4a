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
from dabdetr.cli.app import app

for _verb in (
    train.train,
    val.val,
    predict.predict,
    explain.explain,
    export.export,
    models.convert,
    models.models,
    bench.bench,
    serve.serve,
    compare.compare,
    demo.demo,
    doctor.doctor,
    snap.snap,
    audit.audit,
    prune.prune,
):
    app.command()(_verb)
app.add_typer(data.data, name="data")
_PASS_ALL_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command(hidden=True, context_settings=_PASS_ALL_ON)(compare.ladder)

main = app
