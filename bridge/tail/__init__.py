"""``pgbridge tail``: follows the stream from a shell, over any number of connections."""
