"""Why a query found what it found: numbers first (trace), then figures and a page."""
