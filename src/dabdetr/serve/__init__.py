"""A model behind HTTP: routes of its own, KServe's protocol, and a page to try it."""
