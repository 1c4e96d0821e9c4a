"""The command line: `dabdetr VERB`, one function each; what is heavy is imported inside them."""

from dabdetr.cli import demo, explain, models, predict, train, val
from dabdetr.cli.app import app

for _verb in (
    *(train.train, val.val, predict.predict, explain.explain),
    *(models.convert, models.models, demo.demo),
):
    app.command()(_verb)

main = app
