"""The command line: `dabdetr VERB`, one function each; what is heavy is imported inside them."""

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
    snap,
    train,
    val,
)
from dabdetr.cli.app import app

for _verb in (
    *(train.train, val.val, predict.predict, explain.explain),
    *(export.export, models.convert, models.models, bench.bench, compare.compare, demo.demo),
):
    app.command()(_verb)
app.command()(doctor.doctor)
app.command()(snap.snap)
app.command()(audit.audit)
app.command()(prune.prune)
app.add_typer(data.data, name="data")
_FREE = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command(hidden=True, context_settings=_FREE)(compare.ladder)

main = app
