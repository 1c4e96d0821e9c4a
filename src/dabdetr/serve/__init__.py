"""An HTTP service for a model: its own routes, KServe's protocol, and a page to try it."""
