"""The surface: one module per resource of the API."""
