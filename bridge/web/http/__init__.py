"""HTTP on the shared port: accepting, parsing, middleware."""
